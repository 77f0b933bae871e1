"""Batches of every epoch, drawn so that they are the same after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Draw:
    """One training image of a batch: its index, its random seed, and its rotation."""

    index: int
    seed: int
    quarter: bool
    """True if height and width are exchanged; the same for a whole batch."""


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in random order, the same every time that epoch is drawn.

    Set :attr:`epoch` before every epoch. A last batch of one image is left out, since batch
    normalisation learns nothing useful from it, unless it is the only batch or all batches hold one
    image. Draws of an empty frame have the index ``images``, one beyond the last image.
    """

    def __init__(
        self, images: int, samples_per_frame: int, batch: int, seed: int, blanks: int = 0
    ) -> None:
        self.images = images
        self.samples_per_frame = samples_per_frame
        self.batch = batch
        self.seed = seed
        self.blanks = blanks
        self.epoch = 0

    def __len__(self) -> int:
        count = self.images * self.samples_per_frame + self.blanks
        whole, rest = divmod(count, self.batch)
        return whole + int(rest > 1 or (rest == 1 and not whole))

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = np.repeat(np.arange(self.images), self.samples_per_frame)
        order = random.permutation(np.append(drawn, np.full(self.blanks, self.images)))
        for number in range(len(self)):
            quarter = bool(random.integers(2))
            chosen = order[number * self.batch : (number + 1) * self.batch]
            yield [Draw(int(i), int(random.integers(2**32)), quarter) for i in chosen]
