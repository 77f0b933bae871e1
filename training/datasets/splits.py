"""Splits by frame: the cells of one frame are never on both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.datasets.annotated import AnnotatedDataset


@dataclass(frozen=True)
class SplitSizes:
    """Frames in each of the three parts of a split; defaults are those of study S2 (30 frames).

    Raises ValueError if a part would be empty.
    """

    training: int = 15
    validation: int = 5
    test: int = 10

    def __post_init__(self) -> None:
        empty = [name for name, count in vars(self).items() if count < 1]
        if empty:
            raise ValueError(
                f"every part of a split takes one frame at least; {self} has none for "
                f"{', '.join(empty)}."
            )

    @property
    def frames(self) -> int:
        """Total number of frames of a split."""
        return self.training + self.validation + self.test

    def __str__(self) -> str:
        return f"{self.training}/{self.validation}/{self.test}"


@dataclass(frozen=True)
class DatasetSplit:
    """One split. No frame is in two parts."""

    training: AnnotatedDataset
    """Training frames in the order in which they were drawn."""
    validation: AnnotatedDataset
    test: AnnotatedDataset


def random_split(dataset: AnnotatedDataset, sizes: SplitSizes, seed: int) -> DatasetSplit:
    """Draw training, validation and test frames; any remaining frames are left out.

    With K seeds this is the repeated random sub-sampling of study S2 (K = 10). The draw depends on
    the frames' names, the sizes and the seed, not on the order of the frames.

    Raises:
        ValueError: the data set has fewer frames than the split takes.
    """
    frames = {frame.name: frame for frame in dataset.frames}
    if sizes.frames > len(frames):
        raise ValueError(
            f"a split {sizes} into training, validation and test takes {sizes.frames} frames; the "
            f"data set has {len(frames)}. Take smaller parts, or annotate more frames."
        )
    drawn = [frames[n] for n in np.random.default_rng(seed).permutation(sorted(frames)).tolist()]
    first_test = sizes.training + sizes.validation
    parts = (
        drawn[: sizes.training],
        drawn[sizes.training : first_test],
        drawn[first_test : sizes.frames],
    )
    return DatasetSplit(*(replace(dataset, frames=tuple(part)) for part in parts))


def split_by_frame(
    dataset: AnnotatedDataset, validation_share: float, seed: int
) -> tuple[AnnotatedDataset, AnnotatedDataset]:
    """Draw whole frames for validation: ``(training frames, validation frames)``.

    Each side gets at least one frame.

    Raises:
        ValueError: the data set has fewer than two frames, or one side has no cell.
    """
    names = sorted(frame.name for frame in dataset.frames)
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


def refuse_shared_frames(train: AnnotatedDataset, validation: AnnotatedDataset) -> None:
    """Raise ValueError if a frame is used for both training and validation."""
    shared = {f.path for f in train.frames} & {f.path for f in validation.frames}
    if shared:
        raise ValueError(
            f"{len(shared)} frames stand in training and validation, {min(shared)} among them; "
            "validate on frames that are not trained on."
        )
