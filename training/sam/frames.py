"""Frames for training and validating SAM, prepared once.

An image is normalised by `training.preprocessing.normalise`, as in serving, and resized as in
`SamPredictor`; `Sam.preprocess` follows at the encoder. It is stored at that size, not padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.preprocessing.normalise import PercentileLevels, to_8_bit


@dataclass(frozen=True)
class Sides:
    """Sides of the square arrays that one SAM works on, in pixels."""

    image: int
    """Side S of the image that the encoder sees."""
    grid: int
    """Side G of the low-resolution masks."""

    @classmethod
    def of(cls, sam: Sam) -> Sides:
        """Return the sides of ``sam``."""
        return cls(sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0])

    @property
    def step(self) -> float:
        """Image pixels per grid pixel."""
        return self.image / self.grid


@dataclass(frozen=True)
class SamFrame:
    """One frame with its cells; the image is as SAM sees it."""

    name: str
    pixels: Tensor
    """Image uint8 ``[1 or 3, h, w]`` with longest side S; one channel stands for three equal
    ones."""
    size: tuple[int, int]
    """Size (H, W) of the frame; the cells are given in its pixels."""
    cells: tuple[AnnotatedCell, ...]

    @property
    def scale(self) -> tuple[float, float]:
        """Image pixels per frame pixel, along x and y."""
        return self.pixels.shape[2] / self.size[1], self.pixels.shape[1] / self.size[0]

    def rgb(self) -> Tensor:
        """The image as uint8 ``[3, h, w]``."""
        return self.pixels.expand(3, -1, -1)

    def boxes(self) -> Tensor:
        """Boxes of all cells, float32 ``[N, 4]``, in pixels of the image."""
        boxes = torch.tensor([cell.box for cell in self.cells], dtype=torch.float64)
        return (boxes * torch.tensor(self.scale * 2)).float()

    def truths(self, sides: Sides) -> Tensor:
        """Share of every grid pixel that each cell covers, float32 ``[N, G, G]``, 0..1."""
        truths = np.zeros((len(self.cells), sides.grid, sides.grid), np.float32)
        scale_x, scale_y = (scale / sides.step for scale in self.scale)
        for truth, cell in zip(truths, self.cells, strict=True):
            height, width = cell.mask.shape
            rows, top = _shares(cell.y, height, scale_y)
            columns, left = _shares(cell.x, width, scale_x)
            place = truth[top : top + len(rows), left : left + len(columns)]
            # A last row beyond the grid holds only rounding errors.
            place[:] = (rows @ cell.mask @ columns.T)[: place.shape[0], : place.shape[1]]
        return torch.from_numpy(truths)

    def chosen(self, indices: Sequence[int]) -> SamFrame:
        """Return the frame with only the cells at ``indices``."""
        return replace(self, cells=tuple(self.cells[i] for i in indices))

    def spread(self, most: int | None) -> SamFrame:
        """Return the frame with at most ``most`` cells, evenly spread over their list."""
        if most is None or most >= len(self.cells):
            return self
        return self.chosen(np.linspace(0, len(self.cells) - 1, most).astype(int).tolist())

    def mirrored(self) -> SamFrame:
        """Return the frame with left and right exchanged."""
        cells = tuple(
            replace(c, x=self.size[1] - c.x - c.mask.shape[1], mask=c.mask[:, ::-1])
            for c in self.cells
        )
        return replace(self, pixels=self.pixels.flip(2), cells=cells)

    def transposed(self) -> SamFrame:
        """Return the frame with rows and columns exchanged."""
        cells = tuple(replace(c, x=c.y, y=c.x, mask=c.mask.T) for c in self.cells)
        pixels = self.pixels.transpose(1, 2)
        return replace(self, pixels=pixels, size=self.size[::-1], cells=cells)


def _shares(start: int, length: int, scale: float) -> tuple[npt.NDArray[np.float32], int]:
    """Compute shares ``[g, length]`` of a cell's rows in grid rows, and the first grid row."""
    edges = (start + np.arange(length + 1)) * scale
    first = int(edges[0])
    rows = np.arange(first, int(np.ceil(edges[-1])))[:, None]
    shares = np.minimum(rows + 1, edges[1:]) - np.maximum(rows, edges[:-1])
    return np.maximum(shares, 0).astype(np.float32), first


def prepare_frames(dataset: AnnotatedDataset, sides: Sides) -> tuple[SamFrame, ...]:
    """Normalise and resize every frame.

    Raises:
        ValueError: a frame with cells has a single value everywhere, so nothing can be seen in it,
            or is so thin that nothing of it is left.
    """
    frames = track(dataset.frames, "preparing frames", transient=True)
    return tuple(_prepare(frame, sides.image) for frame in frames)


def _prepare(frame: AnnotatedFrame, side: int) -> SamFrame:
    image = frame.read()
    if frame.cells and image.min() == image.max():
        raise ValueError(
            f"{frame.path}: all pixels are {image.min()}, yet {len(frame.cells)} cells are "
            "annotated in it; a black or saturated frame teaches nothing. Leave it out."
        )
    size = frame.height, frame.width
    if min(ResizeLongestSide.get_preprocess_shape(*size, side)) < 1:
        raise ValueError(
            f"{frame.path}: SAM resizes the longest side to {side} pixels, and nothing is left of "
            f"{size[1]}x{size[0]}. Leave it out."
        )
    camera = torch.from_numpy(image.astype(np.int32)).reshape(*size, -1)
    normalised = to_8_bit(camera.float(), PercentileLevels()(camera)).numpy()
    resized = ResizeLongestSide(side).apply_image(
        normalised.squeeze(2) if image.ndim == 2 else normalised
    )
    pixels = torch.from_numpy(resized).reshape(*resized.shape[:2], -1).permute(2, 0, 1)
    return SamFrame(frame.name, pixels.contiguous(), size, frame.cells)


_FAR = 10.0  # grid pixels; the unit of offsets


def dense_truth(frame: SamFrame, sides: Sides) -> Tensor:
    """Make the true maps float32 ``[4, G, G]`` of a frame, for training without prompts.

    They are the targets of `training.sam.trainer.DenseHead`. The frame must have at least one cell.
    The first map is the share of every pixel that is cell, 0..1. Where cells overlap, a pixel
    belongs to the one that covers most of it.
    """
    truths = frame.truths(sides)
    share, owner = truths.max(dim=0)
    owner = torch.where(share > 0.5, owner + 1, 0)
    places = torch.arange(sides.grid) + 0.5
    areas = truths.sum(dim=(1, 2)).clamp(min=1e-3)
    centre_x = (truths.sum(dim=1) @ places) / areas
    centre_y = (truths.sum(dim=2) @ places) / areas
    background = torch.zeros(1)
    offsets = torch.stack(
        [
            torch.cat([background, centre_x])[owner] - places,
            torch.cat([background, centre_y])[owner] - places[:, None],
        ]
    )
    border = torch.zeros_like(share)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    for part, differs in (
        (border[:, 1:], across),
        (border[:, :-1], across),
        (border[1:], down),
        (border[:-1], down),
    ):
        part[differs] = 1
    inside = (owner > 0) * offsets / _FAR
    return torch.cat([truths.sum(dim=0).clamp(max=1)[None], border[None], inside])
