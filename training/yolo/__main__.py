"""Train YOLO11n-seg by the protocol of study S1.

The protocol is 200 epochs on general cells of one class, then 20 epochs on the target data with its
K classes:

\b
    python -m training.yolo general --data data/general --out runs/general
    python -m training.yolo fine-tune --data data/target --init runs/general --out runs/targets

`--init coco` starts from ultralytics' published COCO weights, if they can be fetched. `--preset
demo` is the same with a smaller network input and few epochs: it takes minutes on two CPU cores.
`--resume` continues an interrupted run. Losses and validation metrics of every epoch are in OUT/log
for TensorBoard; OUT itself is the checkpoint.
"""

from __future__ import annotations

from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Literal

import click
import torch
from pydantic import BaseModel, ConfigDict, Field

from cytoserve.contract import NETWORK_SIZE
from training.checkpoint import (
    RANDOM,
    Recipe,
    fill_network,
    load_checkpoint,
    new_recipe,
)
from training.datasets.scale import describe_scale, diameter_range, measure_scale
from training.datasets.splits import split_by_frame
from training.run.command_line import (
    choose_settings,
    data_option,
    pixel_size_option,
    read_data,
    run_options,
)
from training.run.folder import RunFolder
from training.yolo.frames import DATA_FILE, WindowSettings, write_yolo_dataset
from training.yolo.network import ARCHITECTURE, fetch_coco_weights, new_network
from training.yolo.trainer import YoloTrainer, yolo_threshold

STATE_NAME = "state.safetensors"
"""State of an interrupted run, below ``resume/``."""


class YoloSettings(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0)
    """Number of passes over the training windows."""
    network_scale: float | None = Field(None, gt=0)
    """Network pixels per frame pixel. None chooses it by the size of the cells, usually 1, see
    `training.datasets.scale`."""
    own_pixels: bool = False
    """Leave joined data sets at their own scales, so that the network learns cells of all their
    sizes, instead of bringing them to one cell size."""
    window: int = Field(NETWORK_SIZE, ge=64, le=NETWORK_SIZE, multiple_of=32)
    """Side of a training window in network pixels. 640 is the side of a served tile."""
    samples_per_frame: int | None = Field(None, gt=0)
    """Number of windows drawn per frame; None uses all windows that cover it."""
    windows_around_cells: int = Field(0, ge=0)
    """Number of additional windows per frame, each around a random cell."""
    min_visible: float = Field(0.25, gt=0, le=1)
    """Minimum visible share of a cell cut by a window's edge for it to be labelled."""
    background_share: float = Field(0.15, ge=0, le=1)
    """Number of background windows, without an annotated cell, per window drawn as above."""
    blank_share: float = Field(0.15, ge=0, le=1)
    """Number of windows of empty frames, made from noise, per window of the frames."""
    batch: int = Field(16, gt=0)
    """Number of windows per pass through the network."""
    samples_per_step: int = Field(64, gt=0)
    """Number of windows over which gradients are accumulated per optimizer step, after warm-up."""
    learning_rate: float = Field(0.01, gt=0, le=1)
    """Learning rate at the start; it falls linearly to a hundredth."""
    optimizer: Literal["SGD", "AdamW"] = "SGD"
    """Optimizer, by its name in torch.optim."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the frames held out for validation."""
    mosaic: float = Field(1.0, ge=0, le=1)
    """Probability that a sample combines four windows; off in the last tenth of the epochs."""
    scale: float = Field(0.5, ge=0, lt=1)
    """Spread of the random zoom, from 1 - scale to 1 + scale."""
    flip_probability: float = Field(0.5, ge=0, le=1)
    """Probability of a flip, for each axis."""
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


# A short run has no time for mosaics or for accumulating gradients: without them, fewer epochs give
# the same result.
_SHORT = YoloSettings(
    epochs=20,
    window=320,
    optimizer="AdamW",
    batch=8,
    samples_per_step=8,
    mosaic=0.0,
    scale=0.3,
)

# A few frames have few windows, but blank frames are of many kinds: so fine-tuning sees more of
# them.
PRESETS = {
    "general": YoloSettings(epochs=200),
    "fine-tune": YoloSettings(epochs=20, blank_share=0.4),
    "general-demo": _SHORT.model_copy(update={"learning_rate": 0.002}),
    "fine-tune-demo": _SHORT.model_copy(
        update={"epochs": 10, "learning_rate": 0.001, "blank_share": 0.4}
    ),
}


def train(
    data: tuple[str, ...],
    out: Path,
    settings: YoloSettings,
    *,
    one_class: bool,
    init: str,
    seed: int,
    resume: bool,
    pixel_sizes: tuple[float, ...] = (),
) -> Recipe:
    """Train one network and write its checkpoint to ``out``; return its recipe."""
    initial = _initial_weights(init)
    dataset, hashes = read_data(data, one_class, pixel_sizes, own_pixels=settings.own_pixels)
    training, validation = split_by_frame(dataset, settings.validation_share, seed)
    scale = measure_scale(dataset, settings.network_scale)
    if settings.own_pixels:
        scale = scale.model_copy(update={"cell_diameters_px": diameter_range(dataset)})
    click.echo(describe_scale(scale))
    facts = {
        "architecture": ARCHITECTURE,
        "class_names": dataset.class_names,
        "settings": settings.model_dump(),
        "data": hashes,
        "initialised_from": init,
        "seed": seed,
        "scale": scale.model_dump(),
    }
    folder = RunFolder(out, STATE_NAME)
    folder.begin(facts, resume=resume)
    windows = out / "windows"
    if not (resume and (windows / DATA_FILE).is_file()):
        fields = {field.name: getattr(settings, field.name) for field in fields_of(WindowSettings)}
        chosen = WindowSettings(**fields | {"network_scale": scale.network_scale})
        write_yolo_dataset(training, validation, windows, chosen, seed)
    trainer = YoloTrainer(
        overrides=_ultralytics_settings(settings, windows / DATA_FILE, out, seed),
        initial=initial,
        folder=folder,
        resume=resume,
        bf16=settings.bf16,
    )
    trainer.train()
    network = new_network(len(dataset.class_names))
    fill_network(network, trainer.best_weights, str(out))
    threshold = yolo_threshold(network.eval(), validation, scale, seed)
    recipe = new_recipe(**facts, metrics=trainer.best_metrics, threshold=threshold)
    folder.finish(trainer.best_weights, recipe)
    return recipe


def _initial_weights(init: str) -> dict[str, torch.Tensor] | None:
    if init == RANDOM:
        return None
    return fetch_coco_weights() if init == "coco" else load_checkpoint(Path(init), ARCHITECTURE)[0]


def _ultralytics_settings(
    settings: YoloSettings, data: Path, out: Path, seed: int
) -> dict[str, Any]:
    """Translate the settings to ultralytics' names."""
    return {
        "model": f"{ARCHITECTURE}.yaml",
        "data": str(data),
        "project": str(out.parent.resolve()),
        "name": out.name,
        "exist_ok": True,
        "epochs": settings.epochs,
        "imgsz": settings.window,
        "batch": settings.batch,
        "nbs": max(settings.samples_per_step, settings.batch),
        "optimizer": settings.optimizer,
        "lr0": settings.learning_rate,
        "mosaic": settings.mosaic,
        "close_mosaic": max(1, settings.epochs // 10),
        "scale": settings.scale,
        "fliplr": settings.flip_probability,
        "flipud": settings.flip_probability,
        "amp": False,  # Bf16Network handles bf16 itself
        "patience": settings.epochs,
        "seed": seed,
        "pretrained": False,
        "overlap_mask": False,  # overlapping cells keep their overlap
        "single_cls": False,
        "plots": False,
        "verbose": False,
        "max_det": 1000,
    }


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("protocol", type=click.Choice(["general", "fine-tune"]))
@data_option
@pixel_size_option
@click.option("--window", type=int, help="Side of a training window in network pixels.")
@run_options(
    ("study", "demo"),
    init="`random`, `coco`, or a checkpoint folder.",
    seed="Of weights, split, windows and augmentation.",
)
def main(
    protocol: str,
    data: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    **overrides: Any,
) -> None:
    """Train YOLO11n-seg. The module's docstring is the help text."""
    name = protocol if preset == "study" else f"{protocol}-demo"
    settings = choose_settings(PRESETS, name, file, **overrides)
    folder = RunFolder(out, STATE_NAME)
    with folder.reported():
        recipe = train(
            data,
            out,
            settings,
            one_class=protocol == "general",
            init=init,
            seed=seed,
            resume=resume,
            pixel_sizes=pixel_sizes,
        )
    folder.report(recipe)


if __name__ == "__main__":
    main()
