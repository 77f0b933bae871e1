"""Checkpoints: ``model.safetensors`` and the ``recipe.json`` that records how it was made.

Nothing here is read by pickle, so a checkpoint from an unknown source is safe to open.

torch is imported only when weights are read or written, since the command line, which needs names
and recipes alone, should not wait for it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from cytoserve.files import file_sha256, write_atomically

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
RECIPE_FILE = "recipe.json"
RANDOM = "random"
"""Value of ``init`` for a network that starts from random weights."""
RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "ultralytics",
    "segment-anything",
    "segmentation-models-pytorch",
    "lightning",
    "numpy",
)


class CheckpointError(ValueError):
    """Raised for a checkpoint that is missing, damaged or made for another network."""


class LearnedScale(BaseModel):
    """The scale at which a network sees its frames, and the cells that it learned from.

    If data sets of several scales were joined, frame pixels are those of the first one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_scale: float = Field(gt=0)
    """Network pixels per frame pixel."""
    cell_diameter_px: float = Field(gt=0)
    """Median cell diameter in frame pixels; a cell's diameter is that of a disc of equal area."""
    largest_cell_px: float = Field(gt=0)
    """Longest box side of the largest cells in frame pixels, see `training.datasets.scale`."""
    cell_diameters_px: tuple[float, float] | None = None
    """Range of the frames' median diameters in frame pixels, where every data set kept its own
    pixels. None where all were brought to one scale, and in recipes of earlier versions."""
    pixel_size_um: float | None = Field(None, gt=0)
    """Side of a frame pixel in micrometres; None if neither data nor options state it."""


class LearnedAppearance(BaseModel):
    """What the frames with cells look like that a network learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Literal["colour", "grey"], ...] = Field(min_length=1)
    """Kinds of frames, see `cytoserve.appearance.Appearance`."""
    background: tuple[float, float]
    """Least and largest background, see there."""


class ChosenThreshold(BaseModel):
    """The threshold that scored best on the validation frames, and its curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(ge=0, le=1)
    metric: Literal["F1", "Dice"]
    """Score that is highest at ``value``, within a small tolerance."""
    thresholds: tuple[float, ...]
    """Thresholds of the curve, ascending. The other sequences hold one figure per threshold."""
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    best: tuple[float, ...]
    """Score at each threshold: F1 or Dice."""


class Recipe(BaseModel):
    """How a checkpoint was made, in enough detail to make it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    """Name of the network in its library: ``yolo11n-seg``, ``resnet50``."""
    class_names: tuple[str, ...]
    command: tuple[str, ...] = ()
    """The command line that trained it."""
    settings: dict[str, Any]
    data: dict[str, str]
    """Name of each data set trained on -> sha256 of its frames, annotations and crops."""
    initialised_from: str
    seed: int
    metrics: dict[str, float]
    """Metrics on the validation frames, by name."""
    scale: LearnedScale | None = None
    """Scale that the network learned. None in recipes written before scales were recorded."""
    appearance: LearnedAppearance | None = None
    """What the training frames look like. None for networks that do not find cells in frames, and
    in recipes of earlier versions."""
    threshold: ChosenThreshold | None = None
    """Threshold chosen in validation. None if no threshold was chosen."""
    versions: dict[str, str]
    created: str


def new_recipe(**facts: Any) -> Recipe:
    """Make a recipe of the current run; adds command line, package versions and time (UTC)."""
    versions = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return Recipe(
        command=("python", "-m", *_module_and_arguments()),
        versions={"python": platform.python_version(), **versions},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    )


def _module_and_arguments() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # `python -m training.yolo` runs the module `training.yolo.__main__`.
    name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name
    return [name, *sys.argv[1:]]


def hash_files(paths: Iterable[Path]) -> str:
    """Compute one sha256 over the names and contents of files, in the order of their names.

    A recipe records it, to distinguish data sets and weights of the same name.
    """
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode())
        total.update(bytes.fromhex(file_sha256(path)))
    return total.hexdigest()


def save_checkpoint(directory: Path, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
    """Write the weights, then the recipe. A folder without a recipe is an unfinished checkpoint."""
    from safetensors.torch import save

    content = save({name: t.detach().cpu().contiguous() for name, t in weights.items()})
    (directory / RECIPE_FILE).unlink(missing_ok=True)
    write_atomically(directory / WEIGHTS_FILE, content)
    write_atomically(directory / RECIPE_FILE, f"{recipe.model_dump_json(indent=2)}\n".encode())


def read_recipe(directory: Path, architecture: str) -> Recipe:
    """Read the recipe of a checkpoint made for ``architecture``, without its weights.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is for another network.
    """
    for name in (RECIPE_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory}: a checkpoint holds {RECIPE_FILE} and {WEIGHTS_FILE}; {name} is "
                "absent. Give the folder that a finished `python -m training.…` run wrote."
            )
    try:
        recipe = Recipe.model_validate_json((directory / RECIPE_FILE).read_text())
    except ValidationError as error:
        raise CheckpointError(f"{directory / RECIPE_FILE} is damaged:{explain(error)}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{directory / RECIPE_FILE} is damaged: {error}") from error
    if recipe.architecture != architecture:
        raise CheckpointError(
            f"{directory} is a checkpoint of {recipe.architecture}; here {architecture} is needed."
        )
    return recipe


def load_checkpoint(directory: Path, architecture: str) -> tuple[dict[str, torch.Tensor], Recipe]:
    """Read the weights and the recipe of a checkpoint made for ``architecture``.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is for another network.
    """
    from safetensors.torch import load_file

    recipe = read_recipe(directory, architecture)
    try:
        return load_file(directory / WEIGHTS_FILE), recipe
    except SafetensorError as error:
        raise CheckpointError(
            f"{directory / WEIGHTS_FILE} is damaged: {error}. Train again, or copy it again."
        ) from error


def fill_network(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor], origin: str
) -> None:
    """Load ``weights`` into ``network``; every tensor must match.

    Raises:
        CheckpointError: tensors are missing or left over, or shapes differ. The message names
            ``origin``.
    """
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{origin} does not fit the network: {error}") from error


def explain(error: ValidationError) -> str:
    """Format pydantic's errors so that a user can act: a line ``field: reason, given: value`` each.

    The lines are indented, and each begins with a line break. Settings and the indices of crops and
    tiles are explained in the same way as recipes.
    """
    return "".join(
        f"\n  {'.'.join(map(str, fault['loc'])) or 'contents'}: {fault['msg']}"
        + ("" if fault["type"] in ("missing", "json_invalid") else f", given: {fault['input']!r}")
        for fault in error.errors(include_url=False)
    )
