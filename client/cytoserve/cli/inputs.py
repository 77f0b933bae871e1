"""Find images by files, folders and globs, and name their results."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

from cytoserve.cli.exit_codes import ExitCode
from cytoserve.image_files import SEARCHED
from cytoserve.positions import Place
from cytoserve.zarr_positions import ZARR_SUFFIX

PLANE_MARK = "#"
"""What separates a file from the label of a plane in a key."""

MAX_NAME_BYTES = 255
"""Longest file name of common file systems, in bytes."""

SIDE_FOLDERS = frozenset(
    (
        "@eadir",  # thumbnails of Synology
        "#recycle",
        "@recycle",  # of QNAP
        "@recently-snapshot",
        "#snapshot",
        "~snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__macosx",  # of zip archives made on macOS
    )
)
"""Folders that drives and systems add beside images, in lower case; a search passes them."""

_LABEL = re.compile(r"[ptzc](max|\d+)(_[ptzc](max|\d+))*")


@dataclass(frozen=True)
class Input:
    """One image file, or one plane of it.

    Attributes:
        path: the absolute path.
        key: the path below the folder that all inputs share, with ``/``. It names the image in
            ``run.json``, and its results in mirrored folders. A plane's ends in its label, such as
            ``a/x.tif#t003_z02``.
        label: the plane's place in a file of several; empty for a file of one.
        place: the plane; None is the whole file.
    """

    path: Path
    key: str
    label: str = ""
    place: Place | None = None

    @property
    def name(self) -> str:
        """File name, and the plane's label if there is one, such as ``x.tif#t003_z02``."""
        return self.path.name + (f"{PLANE_MARK}{self.label}" if self.label else "")

    @property
    def file_key(self) -> str:
        """The key of the whole file."""
        return self.key.removesuffix(f"{PLANE_MARK}{self.label}") if self.label else self.key

    def plane(self, label: str, place: Place) -> Input:
        """Return a plane of this file; a file's only plane has no label."""
        return Input(self.path, plane_key(self.key, label), label, place)

    def output(self, ending: str) -> str:
        """Return the path of a result below the output folder, such as ``a/x_png_labels.tif``.

        The suffix stays in the name, so that ``x.png`` and ``x.tif`` have separate results. A
        plane's label precedes the ending: ``a/x_tif_t003_z02_labels.tif``.
        """
        key = PurePosixPath(self.file_key)
        if self.label:
            ending = f"{self.label}_{ending}"
        return key.with_name(_fitting(key.stem, f"_{key.suffix[1:]}_{ending}")).as_posix()


def _fitting(stem: str, ending: str) -> str:
    """Return a file name; a stem that is too long is cut, and told apart by its hash."""
    room = MAX_NAME_BYTES - len(os.fsencode(ending))
    encoded = os.fsencode(stem)
    if len(encoded) <= room:
        return stem + ending
    mark = f"-{hashlib.sha256(encoded).hexdigest()[:8]}"
    return encoded[: room - len(mark)].decode("utf-8", "ignore") + mark + ending


def plane_key(key: str, label: str) -> str:
    """Return the key of a plane of the file ``key``."""
    return f"{key}{PLANE_MARK}{label}" if label else key


def file_key(key: str) -> str:
    """Return the key of the file that a plane's key begins with."""
    before, mark, label = key.rpartition(PLANE_MARK)
    return before if mark and _LABEL.fullmatch(label) else key


class NoImageFound(click.UsageError):
    """A glob matches no image."""

    exit_code = ExitCode.NOTHING_TO_DO


@dataclass(frozen=True)
class _Found:
    root: Path
    files: tuple[Path, ...]


def find_inputs(paths: Iterable[str], out: Path) -> list[Input]:
    """Return the images below ``paths``, each once, in the order of their keys.

    A file that is named explicitly is always included. Folders are searched with all their
    subfolders. Globs are expanded here, too, for shells that do not expand them. Folders and globs
    include only files with image suffixes, no hidden files, and nothing in ``out``.

    Raises:
        NoImageFound: a glob matches no image.
        click.UsageError: a path does not exist, or searching it would find our own results.
    """
    out = absolute(out)
    found = [_expanded(path, out) for path in paths]
    base = _common([each.root for each in found])
    files = {file for each in found for file in each.files}
    inputs = (Input(file, file.relative_to(base).as_posix()) for file in files)
    return sorted(inputs, key=lambda given: given.key)


def _expanded(path: str, out: Path) -> _Found:
    given = absolute(Path(path))
    if is_image_folder(given):
        return _Found(given.parent, (given,))
    if given.is_dir():
        return _Found(searchable(given, out), tuple(_search(given, out)))
    if given.exists():
        return _Found(given.parent, (given,))
    if not glob.has_magic(path):
        raise click.UsageError(
            f"A path is a file, a folder or a glob; given: {path!r}, which does not exist. "
            "Check its spelling."
        )
    # The working folder is not part of the pattern, because its name may contain brackets.
    root = searchable(absolute(_plain_part(Path(path))), out)
    matches = [absolute(Path(match)) for match in glob.glob(path, recursive=True)]  # noqa: PTH207
    files = [file for match in matches for file in _matched(match, out)]
    if not files:
        raise NoImageFound(
            f"A glob matches one image at least; given: {path!r}. No image found: check its "
            "spelling, or leave it out."
        )
    return _Found(root, tuple(files))


def _matched(match: Path, out: Path) -> Iterator[Path]:
    if is_image_folder(match):
        yield match
    elif match.is_dir():
        yield from _search(match, out)
    elif is_image(match.name) and not match.is_relative_to(out):
        yield match


def _search(folder: Path, out: Path) -> Iterator[Path]:
    """Yield the images below a folder. Linked folders are searched, each real one once."""
    tops, seen = [folder], set()
    real_out = Path(os.path.realpath(out))
    while tops:
        for here, folders, names in os.walk(tops.pop(0)):
            real = Path(os.path.realpath(here))
            if real in seen or real.is_relative_to(real_out):
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if is_searched(name)]
            yield from (Path(here, name) for name in folders if is_image_folder(Path(here, name)))
            folders[:] = [name for name in folders if not is_image_folder(Path(here, name))]
            tops += [Path(here, name) for name in folders if Path(here, name).is_symlink()]
            yield from (Path(here, name) for name in names if is_image(name))


def is_searched(name: str) -> bool:
    """Tell whether a search enters a folder of this name: not hidden, and no system's own."""
    return not name.startswith(".") and name.lower() not in SIDE_FOLDERS


def is_image(name: str) -> bool:
    """Tell whether a search takes a file of this name: not hidden, and with an image's suffix."""
    return not name.startswith(".") and name.lower().endswith(SEARCHED)


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder is one image: an OME-Zarr."""
    return folder.name.lower().endswith(ZARR_SUFFIX) and folder.is_dir()


def _plain_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard."""
    for parent in pattern.parents:
        if not glob.has_magic(str(parent)):
            return parent
    return Path(pattern.anchor)


def searchable(folder: Path, out: Path) -> Path:
    """Return the folder; refuse a search that would find our own results.

    Raises:
        click.UsageError: the folder is ``out``, or lies in it.
    """
    if folder.is_relative_to(out):
        raise click.UsageError(
            f"Results are kept apart from the images that are searched; given: --out {out} for "
            f"images in {folder}. Choose another folder, such as {folder / 'cells'}."
        )
    return folder


def _common(roots: list[Path]) -> Path:
    try:
        return Path(os.path.commonpath(roots))
    except ValueError as error:  # on Windows
        raise click.UsageError(
            f"Images of one run are on one drive; given: {', '.join(map(str, roots))}. "
            "Run the command once a drive."
        ) from error


def absolute(path: Path) -> Path:
    """Return an absolute path without ``..``; links are not resolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100
