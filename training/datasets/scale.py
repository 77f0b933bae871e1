"""Scale of annotated frames: how large their cells are, and how data sets get a common scale.

A network finds cells of the sizes that it was trained on, so the scale at which it sees a frame is
part of what it learned. Training measures the cells and records the scale in the recipe. Serving
uses this scale for frames of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cytoserve.codec.cards import diameter_factor
from training.checkpoint import CheckpointError, LearnedScale, Recipe
from training.datasets.annotated import AnnotatedCell, AnnotatedDataset

SMALLEST_MEDIAN = 24.0
"""Least median diameter of the cells in network pixels. Smaller cells are enlarged to it. The
finest level of a YOLO has 8 network pixels per anchor, too coarse for cells of a dozen pixels."""

JOINED_MEDIAN = 48.0
"""Median diameter of the cells in network pixels up to which joined data sets keep their pixels.

A set of large cells is shrunk to the scale of one of small cells. On blood cells of 99 px joined
with nuclei of 16 px, a network that saw both at 24 px found 88 % of the blood cells and drew them
with a mean IoU of 0.74, where it had found 97 % at their own size."""

LARGEST_SIDE = 256.0
"""Longest box side of the largest cells in network pixels. Larger cells are reduced to it. Tiles of
640 pixels then overlap by such a cell and still advance by more than half a tile."""

LARGEST_SHARE = 0.99
"""Share of the cells whose longest side is at most the recorded largest one."""

SIMILAR = 1.1
"""Scales that differ by no more than this factor count as equal, and no frame is resized."""


def measure_scale(dataset: AnnotatedDataset, network_scale: float | None = None) -> LearnedScale:
    """Measure the cells of a data set, and choose the scale at which a network sees them.

    Args:
        dataset: frames with their common scale, see :func:`bring_together`; with at least one cell.
        network_scale: network pixels per pixel of the common scale. None chooses 1, or more if the
            cells are smaller than ``SMALLEST_MEDIAN`` or joined sets would be shrunk (see
            ``JOINED_MEDIAN``), or less if the largest exceed ``LARGEST_SIDE``.

    Raises:
        ValueError: there is no cell to measure.
    """
    diameters = cell_diameters(dataset)
    if not diameters.size:
        raise ValueError(
            f"none of {len(dataset.frames)} frames has a cell, so their scale is unknown; annotate "
            "some."
        )
    median = float(np.median(diameters))
    sides = [frame.scale * max(cell.mask.shape) for frame in dataset.frames for cell in frame.cells]
    largest = float(np.quantile(sides, LARGEST_SHARE))
    if network_scale is None:
        unshrunk = 1 / min(frame.scale for frame in dataset.frames if frame.cells)
        wanted = max(1.0, SMALLEST_MEDIAN / median, min(unshrunk, JOINED_MEDIAN / median))
        network_scale = _or_one(min(wanted, LARGEST_SIDE / largest))
    return LearnedScale(
        network_scale=round(network_scale, 4),
        cell_diameter_px=round(median, 2),
        largest_cell_px=round(largest, 1),
        pixel_size_um=dataset.pixel_size_um,
    )


def cell_diameters(dataset: AnnotatedDataset) -> npt.NDArray[np.float64]:
    """Return the diameter of every cell in pixels of the common scale, float64 ``[N]``."""
    return np.array([f.scale * _diameter(cell) for f in dataset.frames for cell in f.cells])


def diameter_range(dataset: AnnotatedDataset) -> tuple[float, float]:
    """Return the range of cell sizes that a network learns from frames of several scales.

    Args:
        dataset: frames of which one or more have a cell.

    Returns:
        Least and largest of the frames' median diameters in pixels, but for a twentieth of the
        frames at either end, whose cells a network hardly sees.
    """
    medians = [
        float(np.median([frame.scale * _diameter(cell) for cell in frame.cells]))
        for frame in dataset.frames
        if frame.cells
    ]
    least, most = np.quantile(medians, (0.05, 0.95))
    return round(float(least), 2), round(float(most), 2)


def bring_together(datasets: Sequence[AnnotatedDataset]) -> list[AnnotatedDataset]:
    """Give the frames of several data sets one common scale, that of the first.

    Data sets are compared by their pixel sizes if both are known, otherwise by the median diameters
    of their cells. Similar ones, and those without a cell to measure, stay unchanged.
    """
    together = list(datasets[:1])
    for dataset in datasets[1:]:
        factor = _factor(datasets[0], dataset)
        frames = tuple(replace(frame, scale=factor) for frame in dataset.frames)
        together.append(replace(dataset, frames=frames))
    return together


def recorded_scale(recipe: Recipe, origin: Path, told: LearnedScale | None = None) -> LearnedScale:
    """Scale of a trained network: ``told`` if it is given, otherwise what its recipe records.

    Args:
        recipe: recipe of the network.
        origin: checkpoint folder of the network, for the message.
        told: scale given by options on the command line.

    Raises:
        CheckpointError: neither states the scale, as with checkpoints of earlier versions.
    """
    scale = told or recipe.scale
    if scale is None:
        raise CheckpointError(
            f"{origin}: a network is served at the scale that it was trained at; this recipe, of "
            "an earlier version, records none. Train again, or tell it with --network-scale "
            "(network pixels per frame pixel: what its frames were resized by) and "
            "--cell-diameter (median, in frame pixels)."
        )
    return scale


def scale_for(network: LearnedScale, frames: LearnedScale | None) -> LearnedScale:
    """Scale for frames whose cells differ in size from those that the network learned from.

    Args:
        network: scale that the network's recipe records.
        frames: scale measured on the frames to be served; None if it is unknown.

    Returns:
        ``frames`` with the network scale at which their cells appear to the network at the size of
        those that it learned from. A network that learned from several data sets at their own
        pixels knows all sizes between theirs, see `LearnedScale.cell_diameters_px`.
    """
    if frames is None:
        return network
    if network.pixel_size_um is not None and frames.pixel_size_um is not None:
        factor = frames.pixel_size_um / network.pixel_size_um
    else:
        factor = diameter_factor(
            frames.cell_diameter_px, network.cell_diameter_px, network.cell_diameters_px
        )
    network_scale = round(network.network_scale * _or_one(factor), 4)
    return frames.model_copy(update={"network_scale": network_scale})


def fine_tuning_scale(measured: LearnedScale, known: LearnedScale | None) -> LearnedScale:
    """Scale at which a trained network is fine-tuned on frames whose cells were measured.

    A network of many sizes goes on seeing the frames as it learned them. Others see the frames as
    measured, which brings cells to the same size in all data sets anyway.

    Args:
        measured: see :func:`measure_scale`.
        known: scale in the recipe of the network; None if there is none.
    """
    if known is None or known.cell_diameters_px is None:
        return measured
    return scale_for(known, measured)


def describe_scale(scale: LearnedScale) -> str:
    """Describe the measured scale in one line for the terminal."""
    return (
        f"cells measure {scale.cell_diameter_px:g} px (median diameter), the largest "
        f"{scale.largest_cell_px:g} px; {scale.network_scale:g} network pixels per frame pixel"
    )


def _factor(first: AnnotatedDataset, other: AnnotatedDataset) -> float:
    """Pixels of ``first`` per pixel of ``other``."""
    if first.pixel_size_um is not None and other.pixel_size_um is not None:
        factor = other.pixel_size_um / first.pixel_size_um
    else:
        wanted, given = _median_diameter(first), _median_diameter(other)
        factor = wanted / given if wanted and given else 1.0
    return _or_one(factor)


def _or_one(factor: float) -> float:
    """Return ``factor``, or 1 if it is close to 1, see ``SIMILAR``."""
    return 1.0 if 1 / SIMILAR <= factor <= SIMILAR else factor


def _median_diameter(dataset: AnnotatedDataset) -> float:
    """Median diameter of the cells in frame pixels; 0 if there is no cell."""
    diameters = [_diameter(cell) for frame in dataset.frames for cell in frame.cells]
    return float(np.median(diameters)) if diameters else 0.0


def _diameter(cell: AnnotatedCell) -> float:
    """Diameter in pixels of the disc that has the cell's area."""
    return 2 * float(np.sqrt(cell.area / np.pi))
