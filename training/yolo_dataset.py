"""Annotated frames as a YOLO-seg data set: 8-bit windows as the served network will see them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import yaml
from rich.progress import track
from skimage import draw

from cytoserve.contract import NETWORK_SIZE
from training.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.letterbox import PrepareFrame

DATA_FILE = "data.yaml"


def write_yolo_dataset(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    directory: Path,
    *,
    window: int,
    windows_per_frame: int | None,
    windows_around_cells: int,
    min_visible: float,
    seed: int,
) -> None:
    """Write ``images/``, ``labels/`` and, last, ``data.yaml`` under ``directory``.

    Frames pass the very module that is served as `yolo_prepare`, then windows of ``window``
    pixels are cut from the result: a network trained on small windows sees cells at the scale at
    which the full 640 px network meets them.

    Args:
        train: frames to train on.
        validation: frames to validate on, of the same classes.
        directory: made anew, so that no window of an earlier run is trained on.
        window: side of a window in network pixels, at most ``NETWORK_SIZE``.
        windows_per_frame: this many are drawn at random; None takes all that cover the frame.
        windows_around_cells: so many more of every frame that has cells, each with the middle of a
            cell somewhere in it: in a nearly empty frame the others would hold none.
        min_visible: a cell cut by a window's edge is labelled if this share of it is inside.
        seed: of the draw.
    """
    shutil.rmtree(directory, ignore_errors=True)
    random = np.random.default_rng(seed)
    for split, dataset in (("train", train), ("val", validation)):
        images, labels = directory / "images" / split, directory / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for frame in track(dataset.frames, f"preparing {split} windows", transient=True):
            prepared = _PreparedFrame(frame, window)
            corners = prepared.covering()
            if windows_per_frame is not None and windows_per_frame < len(corners):
                chosen = random.choice(len(corners), windows_per_frame, replace=False)
                corners = [corners[i] for i in sorted(chosen)]
            corners += prepared.around_cells(windows_around_cells, random)
            windows = [prepared.cut(corner, min_visible) for corner in corners]
            for index, (pixels, lines) in enumerate(windows):
                name = f"{frame.name}_{index:02d}"
                if not cv2.imwrite(str(images / f"{name}.png"), pixels[:, :, ::-1]):
                    raise OSError(f"{images / name}.png could not be written; is the disk full?")
                (labels / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
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


Corner = tuple[int, int]
"""(top, left) of a window, in pixels of the network."""


class _PreparedFrame:
    """One frame as the network sees it, and windows of it."""

    def __init__(self, frame: AnnotatedFrame, window: int) -> None:
        image = frame.read()
        image = image[:, :, None] if image.ndim == 2 else image
        prepared, letterbox, _ = PrepareFrame()(torch.from_numpy(image.astype(np.int32)))
        self.window = window
        self.pixels: npt.NDArray[np.uint8] = prepared[0].permute(1, 2, 0).numpy()
        scale_x, scale_y, pad_x, pad_y = (float(value) for value in letterbox[:4])
        self.polygons = [
            (cell, cell.polygon() * (scale_x, scale_y) + (pad_x, pad_y)) for cell in frame.cells
        ]
        # Content and padding are whole pixels, but for float32 arithmetic.
        self.content = round(frame.height * scale_y), round(frame.width * scale_x)
        self.padding = round(pad_y), round(pad_x)

    def covering(self) -> list[Corner]:
        """Windows that cover the frame."""
        tops, lefts = (
            _starts(content, padding, self.window)
            for content, padding in zip(self.content, self.padding, strict=True)
        )
        return [(top, left) for top in tops for left in lefts]

    def around_cells(self, count: int, random: np.random.Generator) -> list[Corner]:
        """Windows that hold the middle of a cell each, none where the frame has no cell."""
        corners = []
        for index in random.integers(len(self.polygons), size=count) if self.polygons else ():
            x, y = self.polygons[index][1].mean(axis=0)
            top, left = (
                int(np.clip(middle - place, 0, NETWORK_SIZE - self.window))
                for middle, place in zip((y, x), random.uniform(0, self.window, 2), strict=True)
            )
            corners.append((top, left))
        return corners

    def cut(self, corner: Corner, min_visible: float) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """RGB uint8 ``[window, window, 3]`` and label lines."""
        top, left = corner
        lines = [
            line
            for cell, polygon in self.polygons
            if (line := _label_line(cell.class_id, polygon - (left, top), self.window, min_visible))
        ]
        pixels = self.pixels[top : top + self.window, left : left + self.window]
        return np.ascontiguousarray(pixels), lines


def _starts(content: int, padding: int, window: int) -> list[int]:
    """Where windows begin along one side so that they cover the content evenly."""
    count = max(1, math.ceil(content / window))
    last = max(padding, padding + content - window) if content > window else padding
    starts = np.linspace(padding, last, count) if count > 1 else [padding + (content - window) / 2]
    return [int(np.clip(round(start), 0, NETWORK_SIZE - window)) for start in starts]


def _label_line(
    class_id: int, polygon: npt.NDArray[np.float64], window: int, min_visible: float
) -> str | None:
    """One YOLO-seg line, ``class x y x y …`` in shares of the window; None for a cell outside."""
    if (polygon.max(axis=0) <= 0).any() or (polygon.min(axis=0) >= window).any():
        return None
    canvas = np.zeros((window, window), bool)
    # skimage counts pixel centres: half a pixel less than continuous coordinates.
    columns, rows = polygon.T - 0.5
    canvas[draw.polygon(rows, columns, canvas.shape)] = True
    visible = np.count_nonzero(canvas)
    if visible < max(1.0, min_visible * cv2.contourArea(polygon.astype(np.float32))):
        return None
    inside = AnnotatedCell.cut(canvas, class_id).polygon() / window
    coordinates = " ".join(f"{value:.5f}" for value in np.clip(inside, 0, 1).ravel())
    return f"{class_id} {coordinates}"
