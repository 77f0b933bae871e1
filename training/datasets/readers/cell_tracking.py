"""Cell Tracking Challenge: sequences of frames, some of them with segmentation truth.

    01/t000.tif                 frame 0 of sequence 01
    01_GT/SEG/man_seg000.tif    gold truth: annotated by people, for some frames
    01_ST/SEG/man_seg000.tif    silver truth: consensus of several algorithms, for most frames

Numbers have three or four digits. A label image is an integer TIFF: 0 is background, every other
value is one cell. If a frame has both truths, the gold one is used. Only sequences of 2D images are
read.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import tifffile

from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame, AnnotationError
from training.datasets.readers.files import image_size
from training.datasets.readers.label_images import labelled_cells, read_label_image

GOLD, SILVER = "GT", "ST"
SEQUENCE = re.compile(r"\d\d")
FRAME = re.compile(r"t(\d{3,4})\.tiff?", re.IGNORECASE)
TRUTH = re.compile(r"man_seg(\d{3,4})\.tiff?", re.IGNORECASE)
TRUTH_OF_A_SLICE = re.compile(r"man_seg_\d+_\d+\.tiff?", re.IGNORECASE)

ONLY_PLANES = "only plane images are read, so take a data set whose name has 2D in it"

_log = logging.getLogger(__name__)


def truth_folders(directory: Path) -> list[Path]:
    """List the folders ``NN_GT/SEG`` and ``NN_ST/SEG`` in ``directory``."""
    return sorted(
        folder
        for kind in (GOLD, SILVER)
        for folder in directory.glob(f"*_{kind}/SEG")
        if folder.is_dir() and SEQUENCE.fullmatch(folder.parent.name.removesuffix(f"_{kind}"))
    )


def read_cell_tracking(directory: Path) -> AnnotatedDataset:
    """Read every sequence in ``directory``; frame 0 of sequence 01 is called ``01_t000``.

    Frames without truth are left out; a warning from this module's logger states their number.

    Raises AnnotationError, which names the file, the reason and the remedy.
    """
    numbers = {folder.parent.name[:2] for folder in truth_folders(directory)}
    numbers |= {p.name for p in directory.iterdir() if p.is_dir() and SEQUENCE.fullmatch(p.name)}
    frames: list[AnnotatedFrame] = []
    left_out = 0
    for number in sorted(numbers):
        images = _by_frame(directory / number, FRAME)
        truths = _truths(directory, number)
        for index in sorted(truths.keys() - images.keys()):
            reason = f"has no frame t{index}.tif in {directory / number}; add the image"
            raise AnnotationError(truths[index], "", reason)
        left_out += len(images) - len(truths)
        frames += (_read_frame(images[i], truths[i], number) for i in sorted(truths))
    if not frames:
        reason = (
            f"none of {left_out} frames has a man_segNNN.tif in {GOLD} or {SILVER}; download the "
            "training data set, for the challenge's test data set has none"
        )
        raise AnnotationError(directory, "", reason)
    if left_out:
        _log.warning(
            "%s: %d frames have no segmentation truth and are left out, %d have one.",
            directory,
            left_out,
            len(frames),
        )
    return AnnotatedDataset(("cell",), tuple(frames))


def _truths(directory: Path, number: str) -> dict[str, Path]:
    """Label image of each frame that has one, keyed by the frame's number."""
    truths: dict[str, Path] = {}
    for kind in (SILVER, GOLD):  # gold last, so that it replaces silver
        truths |= _by_frame(directory / f"{number}_{kind}" / "SEG", TRUTH)
    return truths


def _by_frame(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """TIFF files in a folder, which may be absent, keyed by the number in their names."""
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() not in (".tif", ".tiff"):
            continue
        if TRUTH_OF_A_SLICE.fullmatch(file.name):
            raise AnnotationError(file, "", f"is the truth of one slice of a stack; {ONLY_PLANES}")
        match = pattern.fullmatch(file.name)
        if match is None:
            expected = "tNNN.tif" if pattern is FRAME else "man_segNNN.tif"
            reason = f"is not named {expected}; rename it, or move it elsewhere"
            raise AnnotationError(file, "", reason)
        if match[1] in files:
            reason = f"is of the same frame as {files[match[1]].name}; remove one of them"
            raise AnnotationError(file, "", reason)
        files[match[1]] = file
    return files


def _read_frame(image: Path, truth: Path, number: str) -> AnnotatedFrame:
    height, width = image_size(image)
    with tifffile.TiffFile(image) as tiff:
        slices = len(tiff.pages)
    if slices > 1:
        raise AnnotationError(image, "", f"is a stack of {slices} slices; {ONLY_PLANES}")
    cells = labelled_cells(read_label_image(truth, height, width), None, truth)
    return AnnotatedFrame(image, height, width, cells, name=f"{number}_{image.stem}")
