"""Seconds and memory to import a large CSV file and to open a large dataset, each step in a process of its own.

    python benchmarks/importing.py                                   # 20 million rows imported, 100 million opened
    python benchmarks/importing.py --rows 200000 --open-rows 200000  # a try-out in seconds

Targets: import in under 60 s and 4 GB; open, with one user's history read, in under 10 s and 3 GB resident.
The page cache is emptied of the files before they are read, so both figures include the disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

USERS_PER_ROW, ITEMS_PER_ROW = 1 / 100, 1 / 500
CHUNK = 2_000_000
START, SECONDS_A_ROW = 1_500_000_000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of the CSV file to import; 0 skips it")
    parser.add_argument("--open-rows", type=int, default=100_000_000, help="interactions to open; 0 skips it")
    parser.add_argument("--ids", choices=["text", "integer"], default="text", help="u17,i4 or 17,4 in the CSV file")
    parser.add_argument("--folder", type=Path, help="where the files go for the time being (about 6 GB); default: /tmp")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](given)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.rows:
            made = apart("write", folder, given)
            print(f"CSV written: {given.rows:,} rows, {made['bytes'] / 1e9:.2f} GB, {given.ids} ids")
            show("import", apart("import", folder, given), seconds=60, gigabytes=4)
        if given.open_rows:
            made = apart("save", folder, given)
            print(f"dataset written: {given.open_rows:,} interactions, {made['bytes'] / 1e9:.2f} GB")
            show("open", apart("open", folder, given), seconds=10, gigabytes=3)


def apart(step: str, folder: str, given: argparse.Namespace) -> dict[str, Any]:
    """What a step measured in a process of its own; this one stays small, as its size counts in that of a child."""
    options = ["--rows", given.rows, "--open-rows", given.open_rows, "--ids", given.ids, "--folder", folder]
    command = [sys.executable, __file__, "--step", step, *map(str, options)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def show(step: str, measured: dict[str, Any], seconds: float, gigabytes: float) -> None:
    met = measured["seconds"] < seconds and measured["gigabytes"] < gigabytes
    print(
        f"{step}: {measured['seconds']:.2f} s (target {seconds}), peak {measured['gigabytes']:.2f} GB resident "
        f"(target {gigabytes}), {measured['threads']} threads: {'met' if met else 'MISSED'}. {measured['what']}"
    )


def write(given: argparse.Namespace) -> dict[str, Any]:
    """A CSV file in order of time, as a log is."""
    import polars as pl

    path = given.folder / "events.csv"
    user, item = ("u", "i") if given.ids == "text" else ("", "")
    with open(path, "wb") as file:
        for start, columns in chunks(given.rows):
            frame = pl.DataFrame(columns).with_columns(
                pl.format(user + "{}", "user").alias("user"), pl.format(item + "{}", "item").alias("item")
            )
            frame.write_csv(file, include_header=start == 0)
    return {"bytes": path.stat().st_size}


def import_(given: argparse.Namespace) -> dict[str, Any]:
    forget(given.folder)
    began = time.perf_counter()
    from itemic.data.importing import import_files

    data = import_files(given.folder / "events.csv").save(given.folder / "imported")
    seconds = time.perf_counter() - began
    assert len(data.interactions) == given.rows
    import pyarrow as pa

    return figures(seconds, pa.cpu_count(), f"{data.n_users:,} users, {data.n_items:,} items")


def save(given: argparse.Namespace) -> dict[str, Any]:
    """A dataset folder of the wanted size, its rows sorted by user and time."""
    import numpy as np

    from itemic.data import Dataset
    from itemic.data.interactions import Interactions
    from itemic.data.table import Table

    rows = given.open_rows
    n_users, n_items = sizes(rows)
    user, item = np.empty(rows, np.int32), np.empty(rows, np.int32)
    stamp, rating = np.empty(rows, np.int64), np.empty(rows, np.float32)
    for start, columns in chunks(rows):
        part = slice(start, start + len(columns["user"]))
        user[part], item[part], rating[part] = columns["user"], columns["item"], columns["rating"]
        stamp[part] = columns["time"]
    user.sort()  # which user a row falls to is random, so that sorting this column alone keeps the times in order
    stamp *= 1000
    log = Interactions(user, item, n_users, n_items, time=stamp, rating=rating)
    Dataset(Table.numbered(n_items), Table.numbered(n_users, "user"), log).save(given.folder / "large")
    return {"bytes": sum(path.stat().st_size for path in (given.folder / "large").rglob("*") if path.is_file())}


def open_(given: argparse.Namespace) -> dict[str, Any]:
    forget(given.folder)
    began = time.perf_counter()
    from itemic.data import Dataset

    data = Dataset.open(given.folder / "large")
    opened = time.perf_counter() - began
    history = data.interactions.histories()[data.n_users // 2]
    seconds = time.perf_counter() - began
    what = f"{opened:.2f} s to open, {seconds - opened:.2f} s for one user's {len(history)} items"
    return figures(seconds, 1, what)


def chunks(rows: int):
    """(first row, columns) of simulated interactions; a few items and users have most of them."""
    import numpy as np

    rng = np.random.default_rng(0)
    n_users, n_items = sizes(rows)
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        yield (
            start,
            {
                "user": (n_users * rng.random(n) ** 2).astype(np.int64),
                "item": (n_items * rng.random(n) ** 3).astype(np.int64),
                "rating": rng.integers(1, 6, n),
                "time": START + SECONDS_A_ROW * np.arange(start, start + n),
            },
        )


def sizes(rows: int) -> tuple[int, int]:
    return max(1, int(rows * USERS_PER_ROW)), max(1, int(rows * ITEMS_PER_ROW))


def forget(folder: Path) -> None:
    """Asks the system to drop the folder's files from its page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def figures(seconds: float, threads: int, what: str) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": seconds, "gigabytes": peak, "threads": threads, "what": what}


STEPS = {"write": write, "import": import_, "save": save, "open": open_}

if __name__ == "__main__":
    main()
