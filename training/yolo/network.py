"""The YOLO11n-seg network of ultralytics: built, filled from a checkpoint, kept offline.

ultralytics is AGPL-3.0. It is imported by this package and those above it, never by client or
server.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Set before the import: ultralytics checks for updates, reports usage and installs packages by
# itself.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
# ultralytics would set one thread for all child processes, but a server started from here needs its
# cores.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import torch
from torch import Tensor, nn
from torch.serialization import safe_globals
from torch.utils._pytree import tree_map
from ultralytics.nn.tasks import SegmentationModel as SegmentationModel

from training.checkpoint import CheckpointError, Recipe, fill_network, load_checkpoint
from training.yolo.settings import ARCHITECTURE

MODEL_FILE = f"{ARCHITECTURE}.yaml"


@contextmanager
def all_threads() -> Iterator[None]:
    """Use all cores: when ultralytics selects a CPU, it leaves one core idle, even one of two."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Bf16Network(SegmentationModel):  # type: ignore[misc]  # ultralytics ships no types
    """YOLO11n-seg, trained in bfloat16 mixed precision on any device.

    ultralytics uses mixed precision on GPUs only. On a CPU with AVX512-BF16 or AMX, a forward and
    backward step took 0.6 times as long as in float32.
    """

    def predict(self, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        """Run the network; in training, use mixed precision with float32 results."""
        if not self.training:
            return super().predict(x, *args, **options)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            outputs = super().predict(x, *args, **options)
        return tree_map(lambda y: y.float() if isinstance(y, torch.Tensor) else y, outputs)


def new_network(class_count: int, *, bf16: bool = False) -> SegmentationModel:
    """Build a YOLO11n-seg for ``class_count`` classes, with random weights; ``bf16`` to train."""
    kind = Bf16Network if bf16 else SegmentationModel
    return kind(MODEL_FILE, nc=class_count, verbose=False)


def load_network(checkpoint: Path) -> tuple[SegmentationModel, Recipe]:
    """Load the trained network of a checkpoint folder, in evaluation mode, and its recipe.

    Raises CheckpointError, see `training.checkpoint.load_checkpoint`.
    """
    weights, recipe = load_checkpoint(checkpoint, ARCHITECTURE)
    network = new_network(len(recipe.class_names))
    fill_network(network, weights, str(checkpoint))
    network.names = dict(enumerate(recipe.class_names))
    return network.eval(), recipe


def transfer(network: SegmentationModel, weights: Mapping[str, torch.Tensor]) -> int:
    """Copy all tensors whose name and shape match: those of the class heads do not, by design.

    Returns the number of tensors that were copied.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


class YoloNetwork(nn.Module):
    """YOLO11n-seg with fused batch norms and a head that decodes boxes to network pixels."""

    def __init__(self, network: SegmentationModel) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().fuse(verbose=False)
        head = self.network.model[-1]
        head.export, head.format = True, "onnx"

    def forward(self, network_image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for RGB images uint8 ``[B, 3, S, S]``.

        Returns ``predictions`` float32 ``[B, 4 + K + 32, A]`` and ``prototypes`` float32
        ``[B, 32, S / 4, S / 4]``, see `training.yolo.decode.YoloDecode`.
        """
        predictions, prototypes = self.network(network_image.float() / 255)
        return predictions, prototypes


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
