"""Cut the rectangle around every annotated cell: the classifier's training images (study S1).

\b
    python -m training.crops --data data/target --out runs/crops

The rectangle is the x_min, x_max, y_min, y_max of the cell's polygon. Cells are split by frame,
never by crop, so that no neighbour of a training cell is used for validation. OUT holds one PNG per
cell and `crops.json`, which `training.resnet` reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.progress import track

from training.checkpoint import LearnedScale, explain
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.datasets.scale import measure_scale
from training.datasets.splits import split_by_frame
from training.run.command_line import data_option, pixel_size_option, read_data

INDEX_FILE = "crops.json"
SPLITS = ("train", "validation")


class Crop(BaseModel):
    """One crop: its file, relative to the folder of the index, and its class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    class_id: int = Field(ge=0)


class CropIndex(BaseModel):
    """Contents of ``crops.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_names: tuple[str, ...]
    data: dict[str, str]
    """Annotated data set -> sha256, see `training.checkpoint.Recipe`."""
    train: tuple[Crop, ...]
    validation: tuple[Crop, ...]
    scale: LearnedScale | None = None
    """Scale measured on the frames. None in an index of an earlier version."""

    @model_validator(mode="after")
    def _know_every_class(self) -> CropIndex:
        for crop in self.train + self.validation:
            if crop.class_id >= len(self.class_names):
                raise ValueError(f"{crop.file} is of class {crop.class_id}, which has no name")
        return self


def cut_crops(
    dataset: AnnotatedDataset, data: dict[str, str], out: Path, validation_share: float, seed: int
) -> CropIndex:
    """Write the crop of every cell below ``out``, and the index next to them.

    Crops of an earlier run are removed together with their index.

    Raises:
        ValueError: fewer than two frames, or no cell on one side of the split.
    """
    parts = split_by_frame(dataset, validation_share, seed)
    if (out / INDEX_FILE).is_file():
        (out / INDEX_FILE).unlink()
        for name in SPLITS:
            shutil.rmtree(out / name, ignore_errors=True)
    splits: dict[str, tuple[Crop, ...]] = {}
    for name, part in zip(SPLITS, parts, strict=True):
        (out / name).mkdir(parents=True, exist_ok=True)
        frames = track(part.frames, f"cutting {name} crops", transient=True)
        splits[name] = tuple(crop for frame in frames for crop in _cut_frame(frame, out, name))
    scale = measure_scale(dataset)
    index = CropIndex(class_names=dataset.class_names, data=data, scale=scale, **splits)
    (out / INDEX_FILE).write_text(index.model_dump_json(indent=1) + "\n")
    return index


def _cut_frame(frame: AnnotatedFrame, out: Path, split: str) -> list[Crop]:
    # Here, so that help and wrong options are answered before torch is imported.
    import torch

    from training.preprocessing.cutting import CellCrops
    from training.preprocessing.normalise import PercentileLevels

    if not frame.cells:
        return []
    image = frame.read()
    image = image[:, :, None] if image.ndim == 2 else image
    camera = torch.from_numpy(image.astype(np.int32))
    polygons = [cell.polygon() for cell in frame.cells]
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32)
    pixels = CellCrops()(camera, PercentileLevels()(camera), torch.from_numpy(boxes))
    crops = []
    for i, (cell, crop) in enumerate(zip(frame.cells, pixels, strict=True)):
        file = f"{split}/{frame.name}_{i:04d}.png"
        if not cv2.imwrite(str(out / file), crop.permute(1, 2, 0).numpy()[:, :, ::-1]):
            raise OSError(f"{out / file} could not be written; is the disk full?")
        crops.append(Crop(file=file, class_id=cell.class_id))
    return crops


def read_index(folder: Path) -> CropIndex:
    """Read ``crops.json`` of a folder.

    Raises:
        ValueError: the file is missing or damaged.
    """
    file = folder / INDEX_FILE
    if not file.is_file():
        raise ValueError(f"{file} is absent; make it with `python -m training.crops`.")
    try:
        return CropIndex.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file} is damaged; cut the crops again:{explain(error)}") from error


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@pixel_size_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the crops.")
@click.option(
    "--validation-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    help="Share of the frames kept for validation.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the split.")
def main(
    data: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    out: Path,
    validation_share: float,
    seed: int,
) -> None:
    """Cut crops. The module's docstring is the help text."""
    dataset, hashes = read_data(data, one_class=False, pixel_sizes_um=pixel_sizes)
    try:
        index = cut_crops(dataset, hashes, out, validation_share, seed)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(index.train)} crops to train on, {len(index.validation)} to validate")


if __name__ == "__main__":
    main()
