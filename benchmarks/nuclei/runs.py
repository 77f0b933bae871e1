"""Trains and tests one U-Net of study S3 on one of its sets of tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.harness.results import KeptResults, OtherProtocolError
from benchmarks.nuclei.result import SetRun, TileScores
from training.checkpoint import RECIPE_FILE, hash_files
from training.datasets.readers.brecahad import PointFrame
from training.nuclei_tiles import (
    INDEX_FILE,
    Tile,
    make_tiles,
    read_tile_index,
    set_folder,
    split_by_case,
)
from training.run.folder import STATE_NAME, RunFolder
from training.unet.dice import FOREGROUND_PROBABILITY, dice_score, iou_score
from training.unet.frames import read_tiles
from training.unet.network import UNet, load_unet
from training.unet.run import train_nuclei
from training.unet.settings import NUCLEI_NETWORKS, UnetSettings


@dataclass(frozen=True)
class Protocol:
    """Data and settings that all runs share; ``settings`` are by set."""

    frames: Sequence[PointFrame]
    radius: float
    test_cases: tuple[str, ...] | None
    """Cases to test on; None draws them by the seed, see `training.nuclei_tiles.split_by_case`."""
    seed: int
    settings: Mapping[str, UnetSettings]
    results: KeptResults

    def begin(self) -> None:
        """Check that cached results belong to this protocol; sets and networks may differ.

        Raises:
            OtherProtocolError: they do not.
        """
        files = [file for frame in self.frames for file in (frame.path, frame.annotation)]
        self.results.begin({"data": hash_files(files), **self._cut})

    @property
    def tested(self) -> list[str]:
        """The cases to test on."""
        return sorted(split_by_case(self.frames, test_cases=self.test_cases, seed=self.seed))

    @property
    def _cut(self) -> dict[str, Any]:
        """Arguments that decide how tiles are cut and split."""
        return {"radius": self.radius, "test_cases": self.test_cases, "seed": self.seed}

    def tiles(self, set_name: str) -> Path:
        """Return the folder of a set, and make it if needed.

        Raises:
            ValueError: frames cannot be cut or split, see `training.nuclei_tiles.make_tiles`.
        """
        folder = set_folder(self.results.out / "tiles", set_name)
        if not (folder / INDEX_FILE).is_file():
            make_tiles(self.frames, folder, set_name, **self._cut)
        return folder


def run_scores(
    protocol: Protocol, set_name: str, network: str, say: Callable[[str], None]
) -> SetRun:
    """Train and test one network on one set, or take the cached result.

    Raises:
        ValueError: tiles cannot be made, or the network cannot be trained on them.
        OtherProtocolError: the cached result has other settings.
    """
    settings = protocol.settings[set_name].model_copy(update={"encoder": NUCLEI_NETWORKS[network]})
    run = f"{set_folder(Path(), set_name)}/{network}"
    folder, shown = protocol.results.folder(run), settings.model_dump(mode="json")
    kept = protocol.results.load(run)
    if kept is not None:
        if kept["settings"] != shown:
            raise OtherProtocolError(
                f"{folder} holds a training with other settings; remove that folder to train it "
                "anew, or give the same settings."
            )
        return TypeAdapter(SetRun).validate_python(kept)
    tiles = protocol.tiles(set_name)
    trained = (folder / RECIPE_FILE).is_file()
    resume = RunFolder(folder, STATE_NAME).state.is_file()
    start = time.monotonic()
    if not trained:
        say(f"training {network} on {set_name}")
        train_nuclei(tiles, settings, folder, seed=protocol.seed, resume=resume)
    say(f"testing {network} on {set_name}")
    unet, index = load_unet(folder)[0], read_tile_index(tiles)
    result = SetRun(
        set=set_name,
        network=network,
        train=tile_scores(unet, tiles, index.train),
        test=tile_scores(unet, tiles, index.test),
        settings=shown,
        folder=str(folder),
        seconds=None if trained or resume else time.monotonic() - start,
    )
    protocol.results.save(run, asdict(result))
    return result


def tile_scores(unet: UNet, folder: Path, tiles: Iterable[Tile]) -> TileScores:
    """Return Dice and IoU of tiles, predicted one by one."""
    dice, iou, both, either = [], [], 0, 0
    for image in read_tiles(folder, [(tile.image, tile.mask) for tile in tiles]):
        with torch.inference_mode():
            probability = torch.sigmoid(unet(image.planes()[0][None]))[0, 0]
        predicted, truth = (probability >= FOREGROUND_PROBABILITY).numpy(), image.mask[0].numpy()
        dice.append(dice_score(predicted, truth))
        iou.append(iou_score(predicted, truth))
        both += int(np.count_nonzero(predicted & truth))
        either += int(np.count_nonzero(predicted | truth))
    return TileScores(
        tiles=len(dice),
        dice=float(np.mean(dice)),
        iou=float(np.mean(iou)),
        pixel_dice=2 * both / (both + either) if either else 1.0,
        pixel_iou=both / either if either else 1.0,
    )
