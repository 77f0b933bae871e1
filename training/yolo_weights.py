"""ultralytics' published COCO weights, fetched on request and read without arbitrary pickle."""

from __future__ import annotations

import collections
import urllib.error
from pathlib import Path

import torch
import ultralytics.nn.modules as yolo_modules
from torch.serialization import safe_globals

from training.checkpoint import CheckpointError
from training.yolo_network import ARCHITECTURE, SegmentationModel

URL = f"https://github.com/ultralytics/assets/releases/download/v8.3.0/{ARCHITECTURE}.pt"


def fetch_coco_weights(url: str = URL) -> dict[str, torch.Tensor]:
    """Download (once) and read the published YOLO11n-seg.

    Raises:
        CheckpointError: the file cannot be fetched, or holds anything but a network's parts.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except (urllib.error.URLError, OSError) as error:
            raise CheckpointError(
                f"COCO weights are at {url}, which cannot be reached from here ({error}). Put the "
                f"file at {file} by hand, or start from random weights: omit --init."
            ) from error
    return read_published(file)


def read_published(file: Path) -> dict[str, torch.Tensor]:
    """Weights of a pickled ultralytics checkpoint, with only network classes let through.

    Raises:
        CheckpointError: the file is damaged, or asks for any other class or function.
    """
    try:
        with safe_globals(_network_parts()):
            content = torch.load(file, map_location="cpu", weights_only=True)
        network = content.get("ema") or content["model"]
        return {name: tensor.float() for name, tensor in network.state_dict().items()}
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(
            f"{file} is no ultralytics checkpoint of plain network parts: {error}"
        ) from error


def _network_parts() -> list[type]:
    """Classes that a pickled YOLO may name: torch's and ultralytics' modules, and containers."""
    torch_parts = [v for v in vars(torch.nn).values() if isinstance(v, type)]
    containers = [torch.nn.ModuleList, torch.nn.Sequential, torch.nn.ModuleDict]
    yolo_parts = [
        part
        for module in vars(yolo_modules).values()
        if hasattr(module, "__name__")
        for part in (vars(module).values() if not isinstance(module, type) else [module])
        if isinstance(part, type) and issubclass(part, torch.nn.Module)
    ]
    return [*torch_parts, *containers, *yolo_parts, SegmentationModel, collections.OrderedDict]
