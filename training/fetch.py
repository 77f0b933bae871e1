"""Fetch a public data set of the studies: `livecell`, `glioma-c6` or `brecahad`.

\b
    python -m training.fetch livecell --out data/livecell

Source, licence, size and checksum are printed first. To resume an interrupted download, give the
command again. Files that are already complete are not fetched again. A checksum that the publisher
does not state is recorded in OUT/checksums.json at the first download, and later downloads must
match it. Zip files are unpacked and kept.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import ssl
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cytoserve.files import file_sha256
from training.datasets.public import PUBLIC_DATASETS, PublicDataset, PublicFile

CHECKSUMS = "checksums.json"
TIMEOUT_S = 60.0
"""Seconds without data from a server after which a download fails."""
_BLOCK = 1 << 20


class FetchError(Exception):
    """Raised if a file cannot be fetched completely; names it, the reason and the remedy."""


def fetch(dataset: PublicDataset, out: Path) -> list[str]:
    """Fetch, verify and unpack all files of ``dataset`` into ``out``.

    Returns:
        One line per file: whether its checksum was verified or recorded.

    Raises:
        FetchError: the network is down, the server refuses, the size or checksum is wrong, the disk
            is full, or a zip file is damaged or would write outside ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    return [_fetch_file(file, out) for file in dataset.files]


def describe(dataset: PublicDataset) -> str:
    """Format source, licence, size and checksum, as printed before a download."""
    lines = [
        dataset.title,
        f"  source    {dataset.page}",
        f"  cite      {dataset.citation}",
        f"  licence   {dataset.licence}",
    ]
    for file in dataset.files:
        size = file.stated_size or "not stated"
        if file.size is not None:
            size = f"{file.size} bytes"
        checksum = file.sha256 or "not stated by the publisher; recorded at the first download"
        lines += [
            f"  file      {file.path} from {file.url}",
            f"    size    {size}",
            f"    sha256  {checksum}",
        ]
    return "\n".join(lines)


def _fetch_file(file: PublicFile, out: Path) -> str:
    target = out / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    recorded = _recorded(out).get(file.path)
    expected = file.sha256 or recorded
    with _disk_errors(target):
        if not target.is_file():
            part = target.with_name(f"{target.name}.part")
            _download(file, part)
            checksum = file_sha256(part)
            _verify(file, part, checksum, expected)
            part.replace(target)
        else:
            checksum = file_sha256(target)
            _verify(file, target, checksum, expected)
        _record(out, file.path, checksum)
        if target.suffix == ".zip":
            _unpack(target, checksum)
    if file.sha256:
        return f"{target}: the publisher's checksum is met"
    if recorded:
        return f"{target}: the checksum of the first download is met"
    return f"{target}: the publisher states no checksum; recorded sha256 {checksum}"


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(
                f"{target}: the disk is full. Make room and give the command again; what was "
                "fetched is kept."
            ) from error
        raise FetchError(f"{target}: cannot be written ({error}); choose another --out.") from error


# -- Download ------------------------------------------------------------------------------------


def _download(file: PublicFile, part: Path) -> None:
    """Fetch into ``part``; append if it already holds the first bytes of the server's file."""
    start = part.stat().st_size if part.is_file() else 0
    tag = part.with_name(f"{part.name}.etag")
    with _network_errors(file, part):
        response = _open(file.url, start, tag.read_text() if start and tag.is_file() else "")
        if response is None:
            return
        with response:
            resumed = response.status == 206
            if resumed and _range_start(response) != start:
                part.unlink()
                raise FetchError(
                    f"{file.url}: the server answers with another part of the file than was asked "
                    "for. What was fetched is dropped; give the command again."
                )
            length = response.headers.get("Content-Length", "")
            total = int(length) + start * resumed if length.isdigit() else None
            if file.size is not None and total not in (None, file.size):
                raise FetchError(
                    f"{file.url}: the server's file has {total} bytes, {file.size} are expected. "
                    "Its publisher replaced it; look at the data set's page."
                )
            tag.write_text(response.headers.get("ETag", ""))
            _save(response, part, total, start if resumed else 0)
    size = part.stat().st_size
    if total is not None and size != total:
        raise FetchError(
            f"{file.url}: the connection was cut off after {size} of {total} bytes. Give the "
            "command again to go on."
        )
    tag.unlink(missing_ok=True)


def _open(url: str, start: int, tag: str) -> HTTPResponse | None:
    """Request the bytes from ``start`` on; None if all bytes are already there.

    A server that does not support ranges, or whose file no longer matches ``tag``, answers with the
    whole file and status 200.
    """
    headers = {"User-Agent": "cytoserve", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag and not tag.startswith("W/"):  # a weak tag does not promise the same bytes
            headers["If-Range"] = tag
    try:
        response: HTTPResponse = urlopen(  # noqa: S310 - the addresses are ours
            Request(url, headers=headers),  # noqa: S310
            timeout=TIMEOUT_S,
        )
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range", "") == f"bytes */{start}":
            return None
        return _open(url, 0, "")  # longer than the server's file, so from another file
    return response


def _range_start(response: HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _save(response: HTTPResponse, part: Path, total: int | None, start: int) -> None:
    bar = Progress(
        TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), transient=True
    )
    with bar, part.open("ab" if start else "wb") as file:
        task = bar.add_task(part.stem, total=total, completed=start)
        while block := response.read(_BLOCK):
            file.write(block)
            bar.advance(task, len(block))


@contextmanager
def _network_errors(file: PublicFile, part: Path) -> Iterator[None]:
    """Turn the errors of urllib into messages; disk errors pass through."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise FetchError(
            f"{file.url}: the server refuses it, {error.code} {error.reason}. Look whether the "
            "data set's page names another address."
        ) from error
    except URLError as error:
        raise FetchError(
            f"{file.url}: cannot be reached ({error.reason}). Check the network, or fetch the "
            f"file elsewhere and put it at {part.with_suffix('')}."
        ) from error
    except (HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise FetchError(
            f"{file.url}: the connection was cut off after {kept} bytes ({error!r}). Give the "
            "command again to go on."
        ) from error


# -- Checksums -----------------------------------------------------------------------------------


def _verify(file: PublicFile, path: Path, checksum: str, expected: str | None) -> None:
    """Reject a file of the wrong size or checksum; if it was just downloaded, delete it."""
    size = path.stat().st_size
    wrong = None
    if file.size is not None and size != file.size:
        wrong = f"has {size} bytes, {file.size} are expected"
    elif expected and checksum != expected:
        origin = "its publisher states" if file.sha256 else f"{CHECKSUMS} recorded"
        wrong = f"has the sha256 {checksum}, {origin} {expected}"
    if wrong is None:
        return
    if path.suffix == ".part":
        path.unlink()
        raise FetchError(
            f"{file.url}: what was fetched {wrong}. It is dropped; give the command again, and "
            "should it differ again, do not use it."
        )
    raise FetchError(f"{path}: {wrong}. It was changed here; remove it and fetch it again.")


def _recorded(out: Path) -> dict[str, str]:
    file = out / CHECKSUMS
    if not file.is_file():
        return {}
    try:
        recorded: Any = json.loads(file.read_text())
    except ValueError as error:
        raise FetchError(f"{file} is damaged ({error}); remove it to record anew.") from error
    if not isinstance(recorded, dict):
        raise FetchError(f"{file} is damaged: it holds no file names; remove it to record anew.")
    return recorded


def _record(out: Path, name: str, checksum: str) -> None:
    recorded: Mapping[str, str] = {**_recorded(out), name: checksum}
    part = out / f"{CHECKSUMS}.part"
    part.write_text(json.dumps(recorded, indent=1) + "\n")
    part.replace(out / CHECKSUMS)


# -- Unpack --------------------------------------------------------------------------------------


def _unpack(archive: Path, checksum: str) -> None:
    """Unpack a zip file next to itself, completely or not at all. Skip one already unpacked.

    Raises:
        FetchError: it is damaged, or an entry lies outside, is a link, or already exists.
    """
    done = archive.with_name(f".{archive.name}.unpacked")
    if done.is_file() and done.read_text() == checksum:
        return
    folder = archive.parent
    staging = folder / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                _check_entry(archive, entry)
            content.extractall(staging)
        for item in sorted(staging.iterdir()):
            _move(item, folder / item.name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise FetchError(
            f"{archive}: cannot be unpacked ({error}); remove it and fetch it again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    done.write_text(checksum)


def _check_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or ":" in entry.filename
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise FetchError(
            f"{archive}: the entry {entry.filename!r} points outside its folder. Nothing was "
            "unpacked; do not use this file."
        )


def _move(source: Path, target: Path) -> None:
    """Move a folder or file into place; merge folders that already exist."""
    if source.is_dir() and target.is_dir():
        for item in sorted(source.iterdir()):
            _move(item, target / item.name)
        return
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(list(PUBLIC_DATASETS)))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its folder."
)
def main(name: str, out: Path) -> None:
    """Fetch a data set. The module's docstring is the help text."""
    dataset = PUBLIC_DATASETS[name]
    click.echo(describe(dataset))
    try:
        for line in fetch(dataset, out):
            click.echo(line)
    except FetchError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt as error:
        raise click.ClickException("interrupted; give the command again to go on.") from error
    click.echo(f"read it with {dataset.read_with.replace('OUT', str(out))}")


if __name__ == "__main__":
    main()
