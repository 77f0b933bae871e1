"""ultralytics' published COCO weights, fetched on request and read without arbitrary pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from training.checkpoint import CheckpointError
from training.yolo.network import ARCHITECTURE, SegmentationModel

URL = f"https://github.com/ultralytics/assets/releases/download/v8.3.0/{ARCHITECTURE}.pt"
NETWORK_PACKAGES = ("torch.nn.modules.", "ultralytics.nn.modules.")


def fetch_coco_weights(url: str = URL) -> dict[str, torch.Tensor]:
    """Download (once, into torch.hub's folder) and read the published YOLO11n-seg weights.

    Raises:
        CheckpointError: the file cannot be fetched, or holds anything other than a network's parts.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:  # urllib's errors among them
            raise CheckpointError(
                f"COCO weights are at {url}, which cannot be reached from here ({error}). Put the "
                f"file at {file} by hand, or start from random weights: omit --init."
            ) from error
    return read_published(file)


def read_published(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a pickled ultralytics checkpoint; only network classes are allowed.

    Raises:
        CheckpointError: the file is damaged, or requests any other class or function.
    """
    try:
        with safe_globals([SegmentationModel, *_network_parts(torch.nn.Module)]):
            content = torch.load(file, map_location="cpu", weights_only=True)
        network = content.get("ema") or content["model"]
        return {name: tensor.float() for name, tensor in network.state_dict().items()}
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(
            f"{file} is no ultralytics checkpoint of plain network parts: {_reason(error)}. Remove "
            "it, so that it is fetched again, or put the right file there."
        ) from error


def _reason(error: Exception) -> str:
    """Give the error that torch found, without its advice to read the file unsafely."""
    lines = str(error).splitlines() or [repr(error)]
    refused = [line for line in lines if "GLOBAL" in line]
    return (refused or lines)[0].split(". ")[0].rstrip(".")


def _network_parts(base: type) -> Iterator[Callable[..., Any]]:
    """Yield the classes that a pickled YOLO may name: layers of torch and of ultralytics."""
    part: type
    for part in base.__subclasses__():
        if part.__module__.startswith(NETWORK_PACKAGES):
            yield part
        yield from _network_parts(part)
