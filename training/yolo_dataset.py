"""Annotated frames as a YOLO-seg data set: 8-bit windows as the served network will see them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
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
            windows = list(_windows(frame, window, min_visible))
            if windows_per_frame is not None and windows_per_frame < len(windows):
                chosen = random.choice(len(windows), windows_per_frame, replace=False)
                windows = [windows[i] for i in sorted(chosen)]
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


def _windows(
    frame: AnnotatedFrame, window: int, min_visible: float
) -> Iterator[tuple[npt.NDArray[np.uint8], list[str]]]:
    """The windows that cover one frame: RGB uint8 ``[window, window, 3]`` and label lines."""
    image = frame.read()
    image = image[:, :, None] if image.ndim == 2 else image
    prepared, letterbox, _ = PrepareFrame()(torch.from_numpy(image.astype(np.int32)))
    pixels = prepared[0].permute(1, 2, 0).numpy()
    scale_x, scale_y, pad_x, pad_y = (float(value) for value in letterbox[:4])
    polygons = [
        (cell, cell.polygon() * (scale_x, scale_y) + (pad_x, pad_y)) for cell in frame.cells
    ]
    # Content and padding are whole pixels, but for float32 arithmetic.
    for top in _starts(round(frame.height * scale_y), round(pad_y), window):
        for left in _starts(round(frame.width * scale_x), round(pad_x), window):
            lines = [
                line
                for cell, polygon in polygons
                if (line := _label_line(cell.class_id, polygon - (left, top), window, min_visible))
            ]
            yield np.ascontiguousarray(pixels[top : top + window, left : left + window]), lines


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
