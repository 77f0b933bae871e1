"""Conversion of annotated frames to a YOLO-seg data set: 8-bit windows, as in serving."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import yaml
from rich.progress import track
from skimage import draw

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.datasets.blank_frames import blank_frame
from training.preprocessing.cutting import PADDING_VALUE, padding_before, scaled_frame

DATA_FILE = "data.yaml"

BACKGROUND_MARGIN = 4
"""Distance that a background window keeps from every annotated cell, in pixels of the scaled
frame."""

BACKGROUND_TRIES = 64
"""Number of places that are tried for a background window of one size."""


@dataclass(frozen=True)
class WindowSettings:
    """Settings of the windows to cut; the settings of `training.yolo` have the same fields."""

    window: int
    samples_per_frame: int | None
    windows_around_cells: int
    min_visible: float
    background_share: float
    blank_share: float
    network_scale: float
    """Network pixels per pixel of the data set's common scale."""


def write_yolo_dataset(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    directory: Path,
    settings: WindowSettings,
    seed: int,
) -> None:
    """Write ``images/``, ``labels/`` and, last, ``data.yaml`` under ``directory``.

    Frames are normalised and scaled by the same module that is served as `yolo_prepare`. Then
    windows of ``window`` pixels are cut from the scaled frame, so a network trained on small
    windows sees cells at the same scale as in its 640 px tiles. A window that extends beyond a
    frame is padded.

    Args:
        train: frames to train on, at one common scale.
        validation: frames to validate on, with the same classes and scale.
        directory: folder to write; it is recreated, so that no window of an earlier run is used.
        settings: settings of the windows to cut.
        seed: random seed of the drawn windows and of the noise in empty ones.
    """
    shutil.rmtree(directory, ignore_errors=True)
    random = np.random.default_rng(seed)
    for split, dataset in (("train", train), ("val", validation)):
        folder = _WindowFolder(directory, split)
        channels = 1
        for frame in track(dataset.frames, f"preparing {split} windows", transient=True):
            prepared = _PreparedFrame(frame, settings)
            channels = max(channels, prepared.channels)
            _write_frame(prepared, frame.name, folder, settings, random)
        for index in range(round(settings.blank_share * folder.written)):
            folder.write(f"blank_{index:04d}", _blank_window(random, settings.window, channels), [])
    (directory / DATA_FILE).write_text(
        yaml.safe_dump(
            {
                "path": str(directory.resolve()),
                "train": "images/train",
                "val": "images/val",
                "names": dict(enumerate(train.class_names)),
            }
        )
    )


class _WindowFolder:
    """Writes the windows of one split, and counts them."""

    def __init__(self, directory: Path, split: str) -> None:
        self.images, self.labels = directory / "images" / split, directory / "labels" / split
        self.written = 0
        for folder in (self.images, self.labels):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, pixels: npt.NDArray[np.uint8], lines: list[str]) -> None:
        """Write one window, RGB uint8 ``[window, window, 3]``, and its label lines."""
        if not cv2.imwrite(str(self.images / f"{name}.png"), pixels[:, :, ::-1]):
            raise OSError(f"{self.images / name}.png could not be written; is the disk full?")
        (self.labels / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        self.written += 1


def _blank_window(random: np.random.Generator, window: int, channels: int) -> npt.NDArray[np.uint8]:
    """Make a window of an empty frame, RGB uint8 ``[window, window, 3]``.

    Half of these frames are smaller than the window, so that it shows their edges and padding.
    """
    least = window if random.random() < 0.5 else window // 3
    height, width = (int(side) for side in random.integers(least, window + 1, 2))
    camera = torch.from_numpy(blank_frame(random, height, width, channels).astype(np.int32))
    return padded(scaled_frame(camera, 1.0)[0].numpy(), window)


Corner = tuple[int, int]
"""Corner (top, left) of a window in pixels of the scaled frame; negative where it is padded."""


class _PreparedFrame:
    """One frame as the network sees it, and its windows."""

    def __init__(self, frame: AnnotatedFrame, settings: WindowSettings) -> None:
        image = frame.read()
        image = image[:, :, None] if image.ndim == 2 else image
        self.channels = image.shape[2]
        scale = settings.network_scale * frame.scale
        pixels, (scale_x, scale_y) = scaled_frame(torch.from_numpy(image.astype(np.int32)), scale)
        self.window, self.min_visible = settings.window, settings.min_visible
        self.pixels: npt.NDArray[np.uint8] = pixels.numpy()
        self.polygons = [(cell, cell.polygon() * (scale_x, scale_y)) for cell in frame.cells]

    def covering(self) -> list[Corner]:
        """List windows that cover the frame."""
        tops, lefts = (_starts(content, self.window) for content in self.pixels.shape[:2])
        return [(top, left) for top in tops for left in lefts]

    def around_cells(self, count: int, random: np.random.Generator) -> list[Corner]:
        """Draw windows that each hold the centre of a random cell; none if there is no cell."""
        corners = []
        for index in random.integers(len(self.polygons), size=count) if self.polygons else ():
            x, y = self.polygons[index][1].mean(axis=0)
            top, left = (
                int(np.clip(middle - place, *self._range(length)))
                for middle, place, length in zip(
                    (y, x), random.uniform(0, self.window, 2), self.pixels.shape[:2], strict=True
                )
            )
            corners.append((top, left))
        return corners

    def _range(self, length: int) -> tuple[int, int]:
        """First and last position of a window along a side; they are equal if it is padded."""
        start = _starts(length, self.window)[0]
        return start, max(start, length - self.window)

    def background(
        self, count: int, random: np.random.Generator
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield at most ``count`` windows without a cell, RGB uint8 ``[window, window, 3]``.

        If cells leave no space for a whole window, a rectangle of half or a quarter of its side
        is cut and padded.
        """
        height, width = self.pixels.shape[:2]
        taken = np.zeros((height, width), np.uint8)
        for _, polygon in self.polygons:
            cv2.fillPoly(taken, [np.rint(polygon).astype(np.int32)], (1,))
        around = np.ones((2 * BACKGROUND_MARGIN + 1,) * 2, np.uint8)
        sums = cv2.integral(cv2.dilate(taken, around))
        for _ in range(count):
            for side in (self.window, self.window // 2, self.window // 4):
                rows, columns = min(side, height), min(side, width)
                tops = random.integers(0, height - rows + 1, BACKGROUND_TRIES)
                lefts = random.integers(0, width - columns + 1, BACKGROUND_TRIES)
                cells = (
                    sums[tops + rows, lefts + columns]
                    - sums[tops, lefts + columns]
                    - sums[tops + rows, lefts]
                    + sums[tops, lefts]
                )
                free = np.flatnonzero(cells == 0)
                if free.size:
                    top, left = int(tops[free[0]]), int(lefts[free[0]])
                    yield padded(self.pixels[top : top + rows, left : left + columns], self.window)
                    break

    def cut(self, corner: Corner) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """Cut a window, RGB uint8 ``[window, window, 3]``, and its label lines."""
        top, left = corner
        labels = (
            _label_line(cell.class_id, polygon - (left, top), self.window, self.min_visible)
            for cell, polygon in self.polygons
        )
        lines = [line for line in labels if line]
        part = self.pixels[max(0, top) : top + self.window, max(0, left) : left + self.window]
        return padded(part, self.window), lines


def _write_frame(
    frame: _PreparedFrame,
    name: str,
    folder: _WindowFolder,
    settings: WindowSettings,
    random: np.random.Generator,
) -> None:
    """Write the windows of one frame: covering windows, windows around cells, and background."""
    corners = frame.covering()
    if settings.samples_per_frame is not None and settings.samples_per_frame < len(corners):
        chosen = random.choice(len(corners), settings.samples_per_frame, replace=False)
        corners = [corners[i] for i in sorted(chosen)]
    corners += frame.around_cells(settings.windows_around_cells, random)
    for index, corner in enumerate(corners):
        folder.write(f"{name}_{index:02d}", *frame.cut(corner))
    wanted = settings.background_share * len(corners)
    count = int(wanted) + int(random.random() < wanted % 1)  # a fraction is a probability
    for index, pixels in enumerate(frame.background(count, random)):
        folder.write(f"{name}_background_{index:02d}", pixels, [])


def padded(pixels: npt.NDArray[np.uint8], window: int) -> npt.NDArray[np.uint8]:
    """Centre ``pixels`` ``[h, w, 3]`` in a window, padded like a served tile."""
    height, width = pixels.shape[:2]
    top, left = (-_starts(length, window)[0] for length in (height, width))
    canvas = np.full((window, window, 3), PADDING_VALUE, np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _starts(content: int, window: int) -> list[int]:
    """Starts of windows along one side, evenly spaced to cover the content."""
    if content <= window:
        return [-padding_before(content, window)]
    count = math.ceil(content / window)
    return [round(start) for start in np.linspace(0, content - window, count)]


def _label_line(
    class_id: int, polygon: npt.NDArray[np.float64], window: int, min_visible: float
) -> str | None:
    """Format a YOLO-seg line, ``class x y x y …`` in shares of the window; None if not visible."""
    if (polygon.max(axis=0) <= 0).any() or (polygon.min(axis=0) >= window).any():
        return None
    canvas = np.zeros((window, window), bool)
    # skimage counts pixel centres, half a pixel less than continuous coordinates.
    columns, rows = polygon.T - 0.5
    canvas[draw.polygon(rows, columns, canvas.shape)] = True
    visible = np.count_nonzero(canvas)
    if visible < max(1.0, min_visible * cv2.contourArea(polygon.astype(np.float32))):
        return None
    inside = AnnotatedCell.cut(canvas, class_id).polygon() / window
    coordinates = " ".join(f"{value:.5f}" for value in np.clip(inside, 0, 1).ravel())
    return f"{class_id} {coordinates}"
