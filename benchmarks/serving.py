"""Latency of recommendations and events a second of a running service, under an open load from another process.

    python benchmarks/serving.py                                     # 100,000 items, 500 a second for 60 s
    python benchmarks/serving.py --items 1000000 --taken 100 --graph  # a million, along a graph
    python benchmarks/serving.py --items 5000 --users 2000 --seconds 5 --rate 200    # a try-out

The request: recommend by user, one source of dot products (BPR, 64 wide), seen and availability filters, k=10, key
checked, impression logged. A tenth of the items is not available. Requests are sent when they are due, however many
wait, and their latency counts from when they were due. Events: bulk requests of 100, then single ones, each
acknowledged after its flush; the disk's own time for a flush stands beside.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONNECTIONS = 64
TOPIC = 500
CONFIG = """
limits: {rate: 100000}
pipelines:
  main:
    sources: {bpr: {}, trending: {kind: trending}}
    fallback: [trending]
    filters: {where: "available = 1"}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--taken", type=int, default=20, help="Items that a user took. Default: 20.")
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--graph", action="store_true", help="Search along a graph that finds 0.95 of the 10 best.")
    parser.add_argument("--links", type=int, default=16, help="Links of an item in the graph. Default: 16.")
    parser.add_argument("--by", help="What the graph links; the quicker kind when not given.")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)  # what the process that loads is started with
    given = parser.parse_args()
    if given.load:
        asyncio.run(load(given))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fitted(given.items, given.users, given.taken, folder)
        if given.graph:
            how = ["--by", given.by] if given.by else []
            print(itemic("index", folder / "bpr", "--links", given.links, *how).rpartition(";")[0])
        (folder / "serve.yaml").write_text(CONFIG)
        key = itemic("serve", "key", "add", "load", "--scope", "write", "--store", folder / "events.db").strip()
        begun = time.perf_counter()
        service, address = started(folder)
        print(
            f"load of the machine {os.getloadavg()[0]:.1f}; {os.cpu_count()} CPUs; a flush takes {flush(folder):.1f} ms"
        )
        print(f"{given.items:,} items, {given.users:,} users; started in {time.perf_counter() - begun:.1f} s")
        try:
            for what in ("recommend", "bulk", "single"):
                before = cpu(service.pid)
                mine = [sys.executable, __file__, *sys.argv[1:], "--load", address, key, what]
                n = int(subprocess.run(mine, check=True, stdout=subprocess.PIPE, text=True).stdout)
                print(f"            {1000 * (cpu(service.pid) - before) / n:.2f} ms of CPU a request", flush=True)
            status = Path(f"/proc/{service.pid}/status").read_text()
            print("memory", next(line for line in status.splitlines() if line.startswith("VmRSS")).split(maxsplit=1)[1])
        finally:
            service.terminate()
            service.wait()


def fitted(n_items: int, n_users: int, taken: int, folder: Path) -> None:
    """A BPR model and its data: users like four topics of five hundred items each, a few of them more than others."""
    from itemic.data import Dataset, Ids, Interactions, Table
    from itemic.registry import find

    rng, n_topics = np.random.default_rng(0), max(4, n_items // TOPIC)
    user = np.repeat(np.arange(n_users, dtype=np.int32), taken)
    liked = rng.integers(n_topics, size=(n_users, 4))[user, rng.integers(4, size=len(user))]
    item = liked * (n_items // n_topics) + (rng.random(len(user)) ** 1.5 * (n_items // n_topics)).astype(np.int64)
    item = rng.permutation(n_items).astype(np.int32)[item]
    log = Interactions.of(user, item, n_users, n_items)
    items = Table.of(Ids.numbered(n_items), {"available": (rng.random(n_items) < 0.9).astype(np.int64)})
    data = Dataset(items, Table.numbered(n_users, "user"), log, name="load")
    training = {"epochs": 5, "optimizer": "rowadam", "lr": 0.02, "batch_size": 8192}
    begun = time.perf_counter()
    find("bpr")(dim=64, training=training).fit(data).save(folder / "bpr")
    print(f"{len(user):,} interactions, fitted and saved in {time.perf_counter() - begun:.0f} s", flush=True)


def itemic(*args: object) -> str:
    code = "from itemic.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def started(folder: Path) -> tuple[subprocess.Popen, str]:
    code = "from itemic.cli import main; main()"
    options = ["--config", folder / "serve.yaml", "--store", folder / "events.db", "--port", "0"]
    command = [sys.executable, "-c", code, "serve", folder / "bpr", *options]
    service = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    for line in service.stderr:
        if line.startswith("http"):
            return service, line.split()[0].removeprefix("http://")
    raise SystemExit(f"the service ended with {service.wait()}")


def cpu(process: int) -> float:
    """Seconds of CPU that a process has taken."""
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def flush(folder: Path) -> float:
    """Milliseconds that the disk takes to write and flush a page, the median of 50."""
    taken = []
    with (folder / "flush").open("wb") as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return 1000 * float(np.median(taken))


async def load(given: argparse.Namespace) -> None:
    address, key, what = given.load
    host, port = address.split(":")
    links: asyncio.Queue = asyncio.Queue()
    for _ in range(CONNECTIONS):
        links.put_nowait(await asyncio.open_connection(host, int(port)))
    rng, names = np.random.default_rng(1), iter(range(10**9))

    def request() -> bytes:
        if what == "recommend":
            path, body = "recommend", {"user": str(rng.integers(given.users)), "k": 10}
        elif what == "single":
            path, body = "events", event()
        else:
            path, body = "events/bulk", {"events": [event() for _ in range(100)]}
        text = json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text

    def event() -> dict:
        who, item = rng.integers(given.users), rng.integers(given.items)
        return {"id": f"{what}-{next(names)}", "user": str(who), "item": str(item), "kind": "view"}

    async def ask(due: float) -> float:
        reader, writer = link = await links.get()
        writer.write(request())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head[:20], head + await reader.read(500)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        links.put_nowait(link)
        return time.perf_counter() - due

    async def at_rate(rate: float, seconds: float) -> np.ndarray:
        begun, tasks = time.perf_counter() + 0.1, []
        for n in range(int(rate * seconds)):
            due = begun + n / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(ask(due)))
        return 1000 * np.array(await asyncio.gather(*tasks))

    n_sent = len(await at_rate(50, 1))
    if what == "recommend":
        taken = await at_rate(given.rate, given.seconds)
        p50, p95, p99 = np.percentile(taken, [50, 95, 99])
        within = f"p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, longest {taken.max():.1f} ms"
        tell(f"recommend   {given.rate:g} a second for {given.seconds:g} s: {within}", n_sent + len(taken))
        return
    seconds, each = min(given.seconds, 10), 100 if what == "bulk" else 1
    begun, done = time.perf_counter(), 0

    async def closed() -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await ask(time.perf_counter())
            done += each

    await asyncio.gather(*(closed() for _ in range(8 if what == "bulk" else CONNECTIONS)))
    tell(f"events      {what}: {done / (time.perf_counter() - begun):,.0f} a second", n_sent + done // each)


def tell(result: str, n_sent: int) -> None:
    """Prints for the reader, and the number of requests for the process that started this one."""
    print(result, file=sys.stderr, flush=True)
    print(n_sent)


if __name__ == "__main__":
    main()
