import gzip
import hashlib
import json
import os
import shutil
import subprocess
import threading
import zipfile
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from itemic.data import download as module
from itemic.data import public
from itemic.data.download import download
from itemic.data.unpack import unpack
from itemic.errors import ConfigError, DataError, SaveError
from itemic.progress import listening

DATA = np.random.default_rng(0).bytes(1_500_000)
MD5 = hashlib.md5(DATA).hexdigest()
fetch = partial(download, pause=0.001, timeout=5)


@dataclass
class Site:
    """What the test server does; a test changes it as it goes and reads back what was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    errors: list[int] = field(default_factory=list)  # the next answers are these error codes
    ranges: bool = True
    etag: bool = True
    modified: bool = True
    length: bool = True
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, self.close_connection = self.site, True
        site.asked.append(self.headers.get("Range"))
        if site.errors or self.path[1:] not in site.files:
            self.send_error(site.errors.pop(0) if site.errors else 404)
            return
        data = site.files[self.path[1:]]
        etag, modified = f'"{hashlib.md5(data).hexdigest()}"', formatdate(len(data), usegmt=True)
        start, asked = 0, self.headers.get("Range")
        if site.ranges and asked and self.headers.get("If-Range") in {etag, modified}:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if site.etag:
            self.send_header("ETag", etag)
        if site.modified:
            self.send_header("Last-Modified", modified)
        if site.length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = start + site.breaks.pop(0) if site.breaks else len(data)
        self.wfile.write(data[start:stop])


@pytest.fixture(scope="module")
def server():
    handler = type("Bound", (Handler,), {"site": Site()})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=partial(running.serve_forever, poll_interval=0.01), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def site(server, monkeypatch) -> Site:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site(f"http://127.0.0.1:{server.server_port}", {"x.bin": DATA})
    server.RequestHandlerClass.site = site
    return site


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_arrives_whole_and_leaves_nothing_else_behind(site, tmp_path):
    path = fetch(f"{site.address}/x.bin", tmp_path / "deep" / "x.bin", f"md5:{MD5}")
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["x.bin"]


def test_a_file_that_is_there_already_is_checked_but_not_fetched_again(site, tmp_path):
    for _ in range(2):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}")
    assert len(site.asked) == 1


@pytest.mark.parametrize("named_by", ["etag", "modified"])
def test_a_broken_connection_is_resumed_where_it_broke(site, tmp_path, named_by):
    site.etag, site.modified = named_by == "etag", named_by == "modified"
    site.breaks = [400_000, 300_000]
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}").read_bytes() == DATA
    assert site.asked == [None, "bytes=400000-", "bytes=700000-"]


def test_a_download_given_up_is_resumed_by_the_next_call(site, tmp_path):
    site.breaks = [400_000]
    with pytest.raises(DataError, match=r"x.bin: the connection broke after 400,000 of 1,500,000 bytes. 400,000 bytes"):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", attempts=1)
    assert names(tmp_path) == ["x.bin.part", "x.bin.part.json"]
    fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}")
    assert site.asked == [None, "bytes=400000-"]


def test_attempts_that_bring_new_bytes_are_not_counted(site, tmp_path):
    site.breaks = [100_000] * 9
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin", attempts=2).read_bytes() == DATA


@pytest.mark.parametrize("lacks", ["ranges", "version"])
def test_without_ranges_or_a_version_the_download_starts_over(site, tmp_path, lacks):
    site.ranges = lacks != "ranges"
    site.etag = site.modified = lacks != "version"
    site.breaks = [400_000]
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin").read_bytes() == DATA


def test_a_file_that_changed_between_two_attempts_is_not_patched_together(site, tmp_path):
    site.breaks = [400_000]
    with pytest.raises(DataError):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", attempts=1)
    site.files["x.bin"] = new = DATA[::-1]
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin").read_bytes() == new


def test_a_part_that_lacks_only_its_last_rename_is_taken_as_it_is(site, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(DATA)
    state = {"address": f"{site.address}/x.bin", "version": f'"{MD5}"'}
    (tmp_path / "x.bin.part.json").write_text(json.dumps(state))
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}").read_bytes() == DATA
    assert site.asked == ["bytes=1500000-"]


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(DATA + b"more")
    state = {"address": f"{site.address}/x.bin", "version": f'"{MD5}"'}
    (tmp_path / "x.bin.part.json").write_text(json.dumps(state))
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}").read_bytes() == DATA


def test_a_part_of_another_address_is_not_continued(site, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(b"something else")
    (tmp_path / "x.bin.part.json").write_text(json.dumps({"address": "http://elsewhere/x.bin", "version": f'"{MD5}"'}))
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin").read_bytes() == DATA
    assert site.asked == [None]


def test_a_file_without_a_stated_length_arrives_whole(site, tmp_path):
    site.length = False
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}").read_bytes() == DATA


@pytest.mark.parametrize("code", [503, 429])
def test_a_busy_server_is_asked_again(site, tmp_path, code):
    site.errors = [code, code]
    assert fetch(f"{site.address}/x.bin", tmp_path / "x.bin").read_bytes() == DATA


def test_a_missing_file_is_told_at_once(site, tmp_path):
    with pytest.raises(DataError, match=r"/none.bin answers 404 Not Found. It may have moved: fetch it by hand"):
        fetch(f"{site.address}/none.bin", tmp_path / "none.bin")
    assert len(site.asked) == 1
    assert names(tmp_path) == []


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"^http://127.0.0.1:9/x: .*refused. Try again later.$"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", attempts=2)


def test_a_wrong_checksum_names_file_expected_and_got_and_removes_the_file(site, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", "md5:" + "0" * 32)
    expected = f"{tmp_path}/x.bin has md5 {MD5}, but its publisher prints {'0' * 32}."
    assert str(caught.value) == f"{expected} The wrong file was removed. Run the command again."
    assert names(tmp_path) == []


def test_a_file_damaged_on_disk_is_found_and_removed(site, tmp_path):
    path = fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"md5:{MD5}")
    path.write_bytes(DATA[:-1])
    with pytest.raises(DataError, match="The wrong file was removed"):
        fetch(f"{site.address}/x.bin", path, f"md5:{MD5}")
    assert fetch(f"{site.address}/x.bin", path, f"md5:{MD5}").read_bytes() == DATA


@pytest.mark.parametrize("printed", ["MD5 (x.bin) = {}", "{}  x.bin\n"])
def test_a_checksum_is_read_from_the_file_beside_the_data(site, tmp_path, printed):
    site.files["x.bin.md5"] = printed.format(MD5).encode()
    fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"{site.address}/x.bin.md5")
    site.files["x.bin.md5"] = printed.format("f" * 32).encode()
    with pytest.raises(DataError, match="but its publisher prints ffff"):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"{site.address}/x.bin.md5")


def test_a_checksum_file_without_a_checksum_is_an_error(site, tmp_path):
    site.files["x.bin.md5"] = b"<html>maintenance</html>"
    with pytest.raises(DataError, match=r"x.bin.md5 holds no md5 or sha256 but '<html>maintenance</html>'"):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"{site.address}/x.bin.md5")


def test_git_checksums_are_those_that_git_computes(site, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    run = subprocess.run(["git", "hash-object", "--stdin"], input=DATA, capture_output=True, check=True)
    path = fetch(f"{site.address}/x.bin", tmp_path / "x.bin", f"git:{run.stdout.decode().strip()}")
    assert path.read_bytes() == DATA


def test_the_first_download_is_recorded_and_later_ones_must_agree(site, tmp_path):
    path = fetch(f"{site.address}/x.bin", tmp_path / "x.bin")
    record = json.loads((tmp_path / "x.bin.json").read_text())
    assert record["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert (record["bytes"], record["address"]) == (len(DATA), f"{site.address}/x.bin")

    path.unlink()
    site.files["x.bin"] = b"a new edition"
    with pytest.raises(
        DataError, match=rf"at its first download \(20.*\) it had {record['sha256']}.*delete .*x.bin.json"
    ):
        fetch(f"{site.address}/x.bin", path)
    assert names(tmp_path) == ["x.bin.json"]

    (tmp_path / "x.bin.json").unlink()
    assert fetch(f"{site.address}/x.bin", path).read_bytes() == b"a new edition"


def test_progress_runs_from_nothing_to_everything_and_tells_of_a_resume(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPORT_EVERY", 0.0)
    site.breaks = [400_000]
    seen = []
    with listening(lambda *event: seen.append(event)):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin")
    assert {event[0] for event in seen} == {"downloading x.bin"}
    assert seen[0][1:] == (0, len(DATA), "")
    assert seen[-1][1:] == (len(DATA), len(DATA), "resumed")
    assert (400_000, None, "connection broke, trying again (2/5)") in [event[1:] for event in seen]
    assert [event[1] for event in seen] == sorted(event[1] for event in seen)
    assert len(seen) > 5


def test_a_place_that_cannot_be_written_is_told_before_anything_is_fetched(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*/file/x.bin: .* Free the place or give another with --out."):
        fetch(f"{site.address}/x.bin", tmp_path / "file" / "x.bin")
    assert site.asked == []


def test_a_full_disk_is_told_before_the_download_where_the_size_is_known(site, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(SaveError, match=r"cannot write .* needs 1,500,000 bytes, 1,000 are free"):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin")


def test_a_disk_that_fills_up_meanwhile_is_no_broken_connection(site, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "x.bin.part").symlink_to("/dev/full")
    with pytest.raises(SaveError, match=r"cannot write .*: No space left on device"):
        fetch(f"{site.address}/x.bin", tmp_path / "x.bin")
    assert len(site.asked) == 1


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_file_is_unpacked_without_its_top_folder(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"ml-x/": b"", "ml-x/ratings.dat": b"1::2", "ml-x/sub/b.txt": b"b"})
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "ratings.dat").read_bytes() == b"1::2"
    assert (tmp_path / "out" / "sub" / "b.txt").read_bytes() == b"b"
    assert names(tmp_path / "out") == ["ratings.dat", "sub"]


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:/out.txt"])
def test_a_zip_member_outside_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", {"good.txt": b"", name: b"bad"})
    with pytest.raises(DataError, match=r"a\.zip holds '.*out\.txt', a link or a path outside its folder"):
        unpack(archive, tmp_path / "in")
    assert names(tmp_path) == ["a.zip"]


def test_a_link_in_a_zip_file_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="holds 'link', a link"):
        unpack(tmp_path / "a.zip", tmp_path / "in")


def test_a_zip_bomb_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"zeros": bytes(10_000_000)})
    with pytest.raises(DataError, match="unpacks to 10,000,000 bytes, over 100 times its size"):
        unpack(archive, tmp_path / "in")


@pytest.mark.parametrize("damage", ["not a zip", "cut", "flipped"])
def test_a_damaged_zip_file_is_removed_with_its_record(tmp_path, damage):
    archive = zipped(tmp_path / "a.zip", {"x.bin": DATA[:10_000]})
    whole = archive.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]
    archive.write_bytes({"not a zip": b"<html>", "cut": whole[:6000], "flipped": flipped}[damage])
    (tmp_path / "a.zip.json").write_text("{}")
    with pytest.raises(DataError, match=r"a.zip is not a whole zip file .* It was removed; run the command again"):
        unpack(archive, tmp_path / "in")
    assert not archive.exists()
    assert not (tmp_path / "a.zip.json").exists()


def test_get_downloads_checks_and_unpacks_a_public_set(site, tmp_path, monkeypatch):
    monkeypatch.delenv("ITEMIC_DATA", raising=False)
    archive = zipped(tmp_path / "a.zip", {"ml-1m/ratings.dat": b"1::1193::5::978300760\n"}).read_bytes()
    site.files["ml-1m.zip"] = archive
    file = public.PublicFile(f"{site.address}/ml-1m.zip", f"md5:{hashlib.md5(archive).hexdigest()}")
    known = public.public_set("ml-1m")
    small = public.PublicSet(**{**vars(known), "files": (file,)})
    monkeypatch.setattr(public, "public_set", {"ml-1m": small}.__getitem__)
    for _ in range(2):
        assert public.get("ml-1m", tmp_path / "raw") == tmp_path / "raw"
    assert (tmp_path / "raw" / "ratings.dat").read_text().startswith("1::1193")
    assert len(site.asked) == 1


def test_a_folder_of_itemic_data_is_read_instead(tmp_path, monkeypatch):
    (tmp_path / "ml-1m").mkdir()
    monkeypatch.setenv("ITEMIC_DATA", str(tmp_path))
    assert public.get("ml-1m", tmp_path / "raw") == tmp_path / "ml-1m"
    assert public.local("..") is None
    assert public.local("ml-100k") is None


def test_an_unknown_set_is_told_with_the_nearest_and_the_known():
    with pytest.raises(ConfigError) as caught:
        public.get("ml-10m", "raw")
    assert str(caught.value).startswith("there is no public set 'ml-10m'. Did you mean 'ml-1")
    assert "Known: ml-100k, ml-1m, ml-25m, ml-latest-small, gowalla-ngcf, yelp2018-ngcf" in str(caught.value)


def test_every_public_set_says_all_that_a_user_must_know():
    sets = public.public_sets()
    assert len({s.name for s in sets}) == len(sets) >= 50
    for s in sets:
        assert s.files
        assert all(f.address.startswith("https://") for f in s.files)
        assert min(map(len, (s.title, s.terms, s.citation, s.reader))) > 2
        assert s.size > 0
        assert s.reader in {"movielens", "lightgcn"} or {"user", "item", "time"} <= set(s.columns)


def test_printed_checksums_have_the_length_of_their_kind():
    printed = [f.checksum for s in public.public_sets() for f in s.files if f.checksum]
    kinds = {"md5": 32, "git": 40}
    pairs = [c.split(":") for c in printed if not c.startswith("https://")]
    assert len(pairs) == 9
    assert all(len(digest) == kinds[kind] and int(digest, 16) for kind, digest in pairs)
    assert [c for c in printed if c.startswith("https://")] == [
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip.md5"
    ]


def test_the_gowalla_checksums_are_those_of_the_local_copy():
    root = Path(os.environ.get("ITEMIC_DATA", "../shared/data")) / "gowalla-ngcf"
    if not root.is_dir():
        pytest.skip("no gowalla-ngcf under $ITEMIC_DATA")
    for file in public.public_set("gowalla-ngcf").files:
        data = gzip.decompress((root / f"{file.name}.gz").read_bytes())
        assert file.checksum == "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
