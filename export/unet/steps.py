"""Every step of the S2 and S3 pipelines: its module and the cases of its parity check."""

from __future__ import annotations

import torch
from torch import Tensor

from cytoserve.contract import PROBABILITY_THRESHOLD, TILE_MARGIN, TILE_SIZE, TILE_STEP
from export.parity.steps import Case, camera_frame, pixels
from export.repository.exported_step import ExportedStep, export_step
from export.unet.networks import TILE_CHUNK, Foreground, TileNetwork, WholeFrameNetwork
from export.unet.nuclei_centres import NucleiCentres
from export.unet.tiles import PrepareTiles, StitchTiles, tile_count
from training.preprocessing.normalise import PrepareWholeFrame
from training.unet.network import UNet

WHITE = 3000.0
"""White level of random frames, below their brightest values."""

SIZES = {
    "odd": (97, 330),  # used for tracing, which would fold the sides of a 1x1 frame
    "1x1": (1, 1),
    "one row": (1, 700),
    "one column": (300, 1),
    "one tile step": (TILE_STEP, TILE_STEP),
    "a pixel more": (TILE_STEP + 1, 2 * TILE_STEP + 1),
    "several tiles": (2 * TILE_STEP, 5 * TILE_STEP),
    "640x480": (480, 640),
}
"""Sizes (H, W) of frames, by what they test."""


def glioma_prepare() -> ExportedStep:
    """The step that normalises a whole frame and raises its contrast."""
    return export_step("glioma_prepare", PrepareWholeFrame(), _frames())


def glioma_network(name: str, unet: UNet, resize_to: tuple[int, int] | None = None) -> ExportedStep:
    """A U-Net on whole frames under the step name `glioma_network` or `glioma_livecell_network`.

    ``resize_to`` (width, height): see `export.unet.networks.WholeFrameNetwork`.
    """
    shapes = {
        "odd": (1, 97, 130),  # used for tracing
        "1x1": (1, 1, 1),
        "one row": (1, 1, 150),
        "one column": (1, 150, 1),
        "batch of 2": (2, 64, 96),
    }
    cases = [Case(title, (pixels(n, 3, h, w),)) for title, (n, h, w) in shapes.items()]
    module = WholeFrameNetwork(unet, resize_to)
    return export_step(name, module, cases, settings={"resize_to": resize_to})


def nuclei_prepare() -> ExportedStep:
    """The step that cleans a frame and cuts it into tiles."""
    white = torch.tensor([WHITE])
    cases = [Case(case.name, (*case.inputs, white)) for case in _frames()]
    return export_step("nuclei_prepare", PrepareTiles(), cases)


def nuclei_network(unet: UNet) -> ExportedStep:
    """A U-Net on tiles, which takes them in chunks."""
    cases = [
        Case(f"{count} tiles", (pixels(count, 3, TILE_SIZE, TILE_SIZE),))
        for count in (2, 1, TILE_CHUNK + 1)
    ]
    return export_step("nuclei_network", TileNetwork(unet), cases, chunk=TILE_CHUNK)


def nuclei_stitch() -> ExportedStep:
    """The step that blends tiles into one frame."""
    cases = []
    for title, size in SIZES.items():
        frame_size = torch.tensor(size, dtype=torch.int32)
        tiles = pixels(int(tile_count(frame_size).prod()), TILE_SIZE, TILE_SIZE)
        cases.append(Case(title, (tiles, frame_size)))
    return export_step("nuclei_stitch", StitchTiles(), cases)


def nuclei_centres(radius: float) -> ExportedStep:
    """The step that finds nuclei of a ``radius`` in frame pixels."""
    half, none = torch.tensor([PROBABILITY_THRESHOLD]), torch.tensor([1.0])
    cases = [
        *(Case(title, (_blobs(*size), half)) for title, size in SIZES.items()),
        Case("no centre", (_blobs(90, 70), none)),
        Case("one plateau", (torch.full((1, TILE_MARGIN, 40), 255, dtype=torch.uint8), half)),
    ]
    module = NucleiCentres(radius)
    return export_step("nuclei_centres", module, cases, settings={"radius": radius})


def foreground() -> ExportedStep:
    """The step that splits a probability by a threshold."""
    cases = [
        Case(f"{title} at {threshold}", (pixels(1, *size), torch.tensor([threshold])))
        for title, size in SIZES.items()
        for threshold in (PROBABILITY_THRESHOLD, 51 / 255, 0.0, 1.0, 2.0)
    ]
    return export_step("foreground", Foreground(), cases)


def _frames() -> list[Case]:
    cases = [
        Case(f"{title}, {channels} channels", (camera_frame(*size, channels),))
        for title, size in SIZES.items()
        for channels in (1, 3)
    ]
    saturated = torch.full((50, 60, 3), 65535, dtype=torch.int32)
    black = torch.zeros((60, 50, 1), dtype=torch.int32)
    return [*cases, Case("saturated", (saturated,)), Case("black", (black,))]


def _blobs(height: int, width: int) -> Tensor:
    """A smooth probability uint8 ``[1, H, W]`` with peaks of many heights, some at the edges."""
    rows, columns = torch.arange(height)[:, None] / 7, torch.arange(width) / 9
    waves = torch.sin(rows + torch.sin(columns / 5)) * torch.cos(columns + torch.sin(rows / 4))
    return torch.round(waves.clamp(min=0) * 255).to(torch.uint8)[None]
