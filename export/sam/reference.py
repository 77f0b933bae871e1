"""Reference for SAM: segment-anything's `SamPredictor`, prompt after prompt, as in the study.

The served pipelines are proven equal to this code and timed against it. Of a large frame, the
predictor is given tiles, cut out one by one. The rule is that of `export.sam.prepare`, written a
second time without tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from cytoserve.contract import MAX_TILE_OVERLAP
from export.parity.reference import normalised_rgb, tile_starts
from training.sam.prompts import paste_coarse_masks


@dataclass(frozen=True)
class Prompt:
    """One prompt, as a person gives it."""

    box: npt.NDArray[np.float32] | None = None
    """Box ``[4]``, (x0, y0, x1, y1) in frame pixels."""
    points: npt.NDArray[np.float32] | None = None
    """Points ``[P, 2]``, (x, y) in frame pixels."""
    point_labels: npt.NDArray[np.int32] | None = None
    """Labels ``[P]`` of the points: 1 foreground, 0 background."""
    coarse_mask: npt.NDArray[np.uint8] | None = None
    """Coarse mask ``[M, M]``, the probability 0..255 inside ``coarse_box``."""
    coarse_box: npt.NDArray[np.float32] | None = None
    """Box ``[4]`` of the coarse mask, (x0, y0, x1, y1) in frame pixels."""


@dataclass(frozen=True)
class Candidates:
    """The three masks that SAM answers a prompt with."""

    logits: npt.NDArray[np.float32]
    """Logits ``[3, H, W]``; a mask is where they are above 0."""
    qualities: npt.NDArray[np.float32]
    """Qualities ``[3]``, the IoU that SAM predicts."""


Tile = tuple[int, int, int, int]
"""A tile (x0, y0, x1, y1) in frame pixels."""


def sam_tiles(frame_size: tuple[int, int], scale: float, overlap: float, side: int) -> list[Tile]:
    """The tiles in which SAM sees a frame (H, W), row by row; one if it sees the whole frame.

    Args:
        frame_size: (H, W) of the frame.
        scale: Mask R-CNN's scale in network pixels per frame pixel.
        overlap: minimum overlap of neighbouring tiles, in the network's pixels.
        side: side of SAM's input square.
    """
    factor = float(np.float32(scale))  # float32, as it is sent
    length = min(math.ceil(side / factor), max(frame_size))
    apart = min(min(max(overlap, 0.0), MAX_TILE_OVERLAP) / factor, length // 2)
    tops, lefts = (tile_starts(content, length, apart) for content in frame_size)
    height, width = (min(content, length) for content in frame_size)
    return [(x, y, x + width, y + height) for y in tops for x in lefts]


def best_tile(box: Sequence[float], tiles: Sequence[Tile]) -> int:
    """Index of the tile from whose nearest inner edge a box is farthest."""
    edges = [min(tile[side] for tile in tiles) for side in (0, 1)]
    edges += [max(tile[side] for tile in tiles) for side in (2, 3)]

    def margin(tile: Tile) -> float:
        inside = (box[0] - tile[0], box[1] - tile[1], tile[2] - box[2], tile[3] - box[3])
        inner = [tile[side] != edges[side] for side in range(4)]
        return min([each for each, counts in zip(inside, inner, strict=True) if counts] or [0.0])

    return max(range(len(tiles)), key=lambda index: margin(tiles[index]))


class PredictorSam:
    """segment-anything's own prediction with one of our SAMs, frame by frame."""

    def __init__(self, sam: Sam) -> None:
        self.predictor = SamPredictor(sam)

    def in_tiles(
        self,
        image: npt.NDArray[np.generic],
        boxes: npt.NDArray[np.float32],
        scale: float,
        overlap: float,
    ) -> list[Candidates]:
        """All masks for each box ``[N, 4]`` on a frame seen in the tiles of :func:`sam_tiles`."""
        rgb = normalised_rgb(image)
        side = self.predictor.model.image_encoder.img_size
        tiles = sam_tiles((rgb.shape[0], rgb.shape[1]), scale, overlap, side)
        chosen = [best_tile(box.tolist(), tiles) for box in boxes]
        found: dict[int, Candidates] = {}
        for index in sorted(set(chosen)):
            x0, y0, x1, y1 = tiles[index]
            self.predictor.set_image(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
            for number in np.flatnonzero(np.equal(chosen, index)):
                shift = np.array([x0, y0, x0, y0], np.float32)
                part = self.candidates(Prompt(box=boxes[number] - shift))
                logits = np.full((3, *rgb.shape[:2]), -np.inf, np.float32)
                logits[:, y0:y1, x0:x1] = part.logits
                found[int(number)] = Candidates(logits, part.qualities)
        return [found[number] for number in range(len(boxes))]

    def set_frame(self, image: npt.NDArray[np.generic]) -> None:
        """Encode a camera frame ``[H, W]`` or ``[H, W, C]`` for the prompts that follow."""
        self.predictor.set_image(normalised_rgb(image))

    def candidates(self, prompt: Prompt) -> Candidates:
        """All masks for one prompt on the frame that was set."""
        mask_input = None
        if prompt.coarse_mask is not None and prompt.coarse_box is not None:
            mask_input = self._mask_input(prompt.coarse_mask, prompt.coarse_box)
        logits, qualities, _ = self.predictor.predict(
            point_coords=prompt.points,
            point_labels=prompt.point_labels,
            box=prompt.box,
            mask_input=mask_input,
            multimask_output=True,
            return_logits=True,
        )
        return Candidates(logits, qualities)

    def _mask_input(
        self, mask: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """A coarse mask as logits ``[1, G, G]`` on the grid of SAM's low-resolution masks."""
        side = self.predictor.model.prompt_encoder.mask_input_size[0]
        on_square = self.predictor.transform.apply_boxes(box, self.predictor.original_size)
        on_grid = on_square * (side / self.predictor.model.image_encoder.img_size)
        logits: npt.NDArray[np.float32] = paste_coarse_masks(
            torch.from_numpy(mask)[None], torch.from_numpy(on_grid), side
        )[0].numpy()
        return logits
