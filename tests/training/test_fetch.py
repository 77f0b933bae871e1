"""Downloads from a real server on this machine: whole, cut off, resumed and refused."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import Result

from training import fetch as fetch_module
from training.datasets.public import PUBLIC_DATASETS, PublicDataset, PublicFile
from training.fetch import FetchError, describe, fetch, main

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``requests`` are the path and Range of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.tags = True
        self.cut_after: int | None = None
        self.shift = 0
        self.requests: list[tuple[str, str]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.path, asked))
        content = self.server.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        start = int(re.sub(r"\D", "", asked) or 0) if self.server.ranges else 0
        if self.headers.get("If-Range", tag) != tag:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            first = start + self.server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.files["a.bin"] = CONTENT
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def dataset(*files: PublicFile) -> PublicDataset:
    return PublicDataset(
        title="Cells",
        page="here",
        citation="us",
        licence="CC0",
        files=files,
        read_with="--data OUT",
    )


@pytest.fixture
def one_file(server: Server) -> PublicDataset:
    return dataset(
        PublicFile(url=server.url("a.bin"), path="in/a.bin", size=len(CONTENT), sha256=SHA256)
    )


@pytest.fixture
def unknown(server: Server) -> PublicDataset:
    """A file of which neither size nor checksum is stated."""
    return dataset(PublicFile(url=server.url("a.bin"), path="a.bin"))


def test_a_file_is_fetched_whole_and_once(
    server: Server, one_file: PublicDataset, tmp_path: Path
) -> None:
    lines = fetch(one_file, tmp_path)
    assert (tmp_path / "in" / "a.bin").read_bytes() == CONTENT
    assert lines == [f"{tmp_path / 'in' / 'a.bin'}: the publisher's checksum is met"]
    assert fetch(one_file, tmp_path) == lines
    assert len(server.requests) == 1
    assert {f.name for f in tmp_path.rglob("*")} == {"in", "a.bin", "checksums.json"}


@pytest.mark.parametrize("tags", [True, False])
def test_a_download_that_was_cut_off_goes_on(
    server: Server, unknown: PublicDataset, tmp_path: Path, tags: bool
) -> None:
    server.cut_after, server.tags = 3000, tags
    with pytest.raises(FetchError, match=r"cut off after 3000 of 10240 bytes. Give the command"):
        fetch(unknown, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    server.cut_after = None
    fetch(unknown, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", ""), ("/a.bin", "bytes=3000-")]
    assert not list(tmp_path.glob("*.part*"))


def test_a_file_that_was_replaced_meanwhile_is_fetched_anew(
    server: Server, unknown: PublicDataset, tmp_path: Path
) -> None:
    server.cut_after = 3000
    with pytest.raises(FetchError):
        fetch(unknown, tmp_path)
    server.cut_after, server.files["a.bin"] = None, CONTENT[::-1]
    fetch(unknown, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_begins_anew(
    server: Server, one_file: PublicDataset, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin.part").write_bytes(CONTENT[:3000])
    server.ranges = False
    fetch(one_file, tmp_path)
    assert (tmp_path / "in" / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        pytest.param(CONTENT, 1, id="whole"),
        pytest.param(CONTENT + b"more", 2, id="longer than the file"),
    ],
)
def test_nothing_is_left_to_fetch(
    server: Server, unknown: PublicDataset, tmp_path: Path, part: bytes, requests: int
) -> None:
    (tmp_path / "a.bin.part").write_bytes(part)
    fetch(unknown, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.requests) == requests


def test_another_range_than_was_asked_for(
    server: Server, unknown: PublicDataset, tmp_path: Path
) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:3000])
    server.shift = 10
    with pytest.raises(FetchError, match=r"another part of the file .* dropped"):
        fetch(unknown, tmp_path)
    fetch(unknown, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"sha256": "0" * 64}, r"sha256 [0-9a-f]+, its publisher states 0+", id="sha"),
        pytest.param({"size": 99}, r"server's file has 10240 bytes, 99 are expected", id="size"),
    ],
)
def test_a_wrong_file_is_dropped(
    one_file: PublicDataset, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    wrong = dataset(one_file.files[0].model_copy(update=changes))
    with pytest.raises(FetchError, match=message):
        fetch(wrong, tmp_path)
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_the_first_download_is_trusted_and_recorded(
    server: Server, unknown: PublicDataset, tmp_path: Path
) -> None:
    assert fetch(unknown, tmp_path)[0].endswith(f"states no checksum; recorded sha256 {SHA256}")
    assert json.loads((tmp_path / "checksums.json").read_text()) == {"a.bin": SHA256}
    assert fetch(unknown, tmp_path)[0].endswith("the checksum of the first download is met")
    (tmp_path / "a.bin").unlink()
    server.files["a.bin"] = b"another"
    with pytest.raises(FetchError, match=rf"checksums.json recorded {SHA256}\. It is dropped"):
        fetch(unknown, tmp_path)
    (tmp_path / "a.bin").write_bytes(b"changed here")
    with pytest.raises(FetchError, match=r"a\.bin: has the sha256 .* changed here; remove it"):
        fetch(unknown, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_records(unknown: PublicDataset, tmp_path: Path, content: str) -> None:
    (tmp_path / "checksums.json").write_text(content)
    with pytest.raises(FetchError, match=r"checksums\.json is damaged"):
        fetch(unknown, tmp_path)


def test_a_file_that_is_not_there(server: Server, tmp_path: Path) -> None:
    missing = dataset(PublicFile(url=server.url("b.bin"), path="b.bin"))
    with pytest.raises(FetchError, match=r"b\.bin: the server refuses it, 404 Not Found"):
        fetch(missing, tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid"])
def test_no_network(tmp_path: Path, host: str) -> None:
    nowhere = dataset(PublicFile(url=f"http://{host}/a.bin", path="a.bin"))
    with pytest.raises(FetchError, match=r"cannot be reached .*put it at .*a\.bin\.$"):
        fetch(nowhere, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk(unknown: PublicDataset, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"the disk is full\. Make room"):
        fetch(unknown, tmp_path)


def test_a_folder_that_cannot_be_written(unknown: PublicDataset, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").mkdir()
    with pytest.raises(FetchError, match=r"cannot be written .*choose another --out"):
        fetch(unknown, tmp_path)


def zipped(*entries: tuple[str | zipfile.ZipInfo, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in entries:
            archive.writestr(name, text)
    return file.getvalue()


@pytest.fixture
def fetch_zip(server: Server, tmp_path: Path) -> Callable[[bytes], None]:
    def fetch_zip(content: bytes) -> None:
        server.files["a.zip"] = content
        fetch(dataset(PublicFile(url=server.url("a.zip"), path="a.zip")), tmp_path / "out")

    return fetch_zip


def test_a_zip_file_is_unpacked_beside_itself_once(
    fetch_zip: Callable[[bytes], None], tmp_path: Path
) -> None:
    content = zipped(("images/a/1.txt", "one"), ("images/2.txt", "two"), ("read.me", "me"))
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "mine.txt").write_text("kept")
    fetch_zip(content)
    out = tmp_path / "out"
    assert (out / "images" / "a" / "1.txt").read_text() == "one"
    assert (out / "images" / "2.txt").read_text() == "two"
    assert (out / "images" / "mine.txt").read_text() == "kept"
    (out / "read.me").write_text("changed")
    fetch_zip(content)
    assert (out / "read.me").read_text() == "changed"
    assert not list(out.glob(".*unpacking"))


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("../escaped.txt", id="above"),
        pytest.param("a/../../escaped.txt", id="above a folder"),
        pytest.param("..\\escaped.txt", id="backslash"),
        pytest.param("/tmp/escaped.txt", id="absolute"),
        pytest.param("C:/escaped.txt", id="drive"),
        pytest.param(link("a"), id="link"),
    ],
)
def test_entries_that_point_outside(
    fetch_zip: Callable[[bytes], None], tmp_path: Path, entry: str | zipfile.ZipInfo
) -> None:
    with pytest.raises(FetchError, match=r"points outside its folder. Nothing was unpacked"):
        fetch_zip(zipped(("good.txt", "good"), (entry, "bad")))
    assert not (tmp_path / "out" / "good.txt").exists()
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_damaged_zip_file(fetch_zip: Callable[[bytes], None], tmp_path: Path) -> None:
    content = bytearray(zipped(("good.txt", "good" * 100)))
    content[60] ^= 0xFF
    for damaged in (bytes(content), b"no zip"):
        with pytest.raises(FetchError, match=r"cannot be unpacked .* remove it and fetch it again"):
            fetch_zip(damaged)
        assert {f.name for f in (tmp_path / "out").iterdir()} == {"a.zip", "checksums.json"}
        (tmp_path / "out" / "a.zip").unlink()
        (tmp_path / "out" / "checksums.json").unlink()


@pytest.mark.parametrize("name", PUBLIC_DATASETS)
def test_every_data_set_is_described(name: str) -> None:
    text = describe(PUBLIC_DATASETS[name])
    assert re.search(r"licence   CC BY", text)
    for file in PUBLIC_DATASETS[name].files:
        assert file.url in text
        assert not Path(file.path).is_absolute()
    assert (
        text.count("    size    ") == text.count("    sha256  ") == len(PUBLIC_DATASETS[name].files)
    )


def test_the_command_prints_before_it_fetches(
    one_file: PublicDataset,
    server: Server,
    tmp_path: Path,
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_module, "PUBLIC_DATASETS", {"livecell": one_file})
    result = run(main, "livecell", "--out", tmp_path)
    text = result.output
    for fact in ("source    here", "licence   CC0", "10240 bytes", f"sha256  {SHA256}"):
        assert text.index(fact) < text.index("checksum is met")
    assert f"read it with --data {tmp_path}" in text
    del server.files["a.bin"]
    (tmp_path / "in" / "a.bin").unlink()
    result = run(main, "livecell", "--out", tmp_path, code=1)
    assert "404 Not Found" in result.output
