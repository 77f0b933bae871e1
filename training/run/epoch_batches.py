"""Which samples make up which batch of which epoch, the same after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Draw:
    """One training image of a batch: which, the seed of all that is random, and its rotation."""

    index: int
    seed: int
    quarter: bool
    """Height and width are exchanged; the same in a whole batch."""


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in random order, the same whenever that epoch is drawn.

    Set :attr:`epoch` before every epoch. A last batch of one image is left out, for batch
    normalisation learns nothing good from it, unless it is the only one or all are such. Draws of
    an empty frame have the index ``images``, one beyond the last image.
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
