"""Splits by frame: cells of one frame never stand on both sides."""

from __future__ import annotations

import numpy as np

from training.annotated import AnnotatedDataset


def split_by_frame(
    dataset: AnnotatedDataset, validation_share: float, seed: int
) -> tuple[AnnotatedDataset, AnnotatedDataset]:
    """Draw whole frames for validation: ``(training frames, validation frames)``.

    At least one frame stands on either side.

    Raises:
        ValueError: the data set has fewer than two frames, or there is no cell on one side.
    """
    names = sorted(frame.path.stem for frame in dataset.frames)
    if len(names) < 2:
        raise ValueError(
            f"a split into training and validation takes two frames or more; got {len(names)}. "
            "Annotate more frames."
        )
    if not _has_cells(dataset):
        raise ValueError(f"none of the {len(names)} frames has a cell; annotate some.")
    count = min(max(1, round(len(names) * validation_share)), len(names) - 1)
    drawn = set(np.random.default_rng(seed).permutation(names)[:count].tolist())
    training, validation = dataset.subset(set(names) - drawn), dataset.subset(drawn)
    for side, part in (("training", training), ("validation", validation)):
        if not _has_cells(part):
            raise ValueError(
                f"no cell in {len(part.frames)} of {len(names)} frames, which were drawn for "
                f"{side}; annotate more frames, or draw others with another --seed."
            )
    return training, validation


def _has_cells(dataset: AnnotatedDataset) -> bool:
    return any(frame.cells for frame in dataset.frames)
