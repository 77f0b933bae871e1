"""Train a model on your images and make it ready to serve.

\b
    python -m training.start --data my_images --minutes 15 --out runs/mine

It reads the annotated images, says what it found, draws six of them with their annotations, and
fine-tunes the general network that the project ships. Then it exports the pipeline `yolo`, which
is compared with PyTorch, and prints the commands that serve it and segment with it. Look at the
pictures in OUT/previews first: if the outlines do not lie on the cells, nothing good can come of
them.

Every step is a command of its own, which is printed as it runs. If the run is cut off, the same
command with `--resume` goes on with it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt

from cytoserve import Cells
from cytoserve.contract import MASK_SIZE
from cytoserve.overlay import draw_overlay
from training.checkpoint import RECIPE_FILE, read_recipe
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.datasets.scale import cell_diameters, fine_tuning_scale, measure_scale
from training.datasets.splits import split_by_frame
from training.run.command_line import data_option, pixel_size_option, read_data
from training.run.folder import RunFolder
from training.run.stages import RECORD, RESUME, Stages, precision_options, resume_command
from training.yolo.settings import ARCHITECTURE, GENERAL, PRESETS, STATE_NAME, init_folder

PRESET = PRESETS["fine-tune-demo"]

FEW_CELLS = 20
"""Number of cells of a class below which a network rarely learns it."""

PREVIEWS = 6
"""Number of frames drawn with their annotations."""

WINDOWS_PER_CELL = 2.0
"""Side of a training window divided by that of the largest cells, at least. A smaller window cuts
many of them."""


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@pixel_size_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="New folder for the model and all that belongs to it.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    help="Minutes of training. Reading, export and its comparison take some more.",
)
@click.option(
    "--init",
    default=GENERAL,
    help="`general` (the shipped network), `random`, `coco`, or a checkpoint folder of a YOLO.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of split and windows.")
@click.option("--resume", is_flag=True, help="Go on with the run that was cut off in OUT.")
def main(
    data: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    out: Path,
    minutes: float,
    init: str,
    seed: int,
    resume: bool,
) -> None:
    """Read, train, export; the module's docstring is the help."""
    _check_out(out, resume)
    try:
        dataset, hashes = read_data(data, one_class=False, pixel_sizes_um=pixel_sizes)
        _check_data(out / "yolo", hashes)
        window = choose_window(dataset, init, seed)
        for line in describe(dataset):
            click.echo(line)
        stages = Stages(resume_command("training.start"), out)
        for file in draw_previews(dataset, out / "previews"):
            click.echo(f"preview: {file}")
    except (ValueError, OSError) as error:  # AnnotationError and CheckpointError among them
        raise click.ClickException(str(error)) from error
    train_and_export(stages, data, pixel_sizes, out, minutes, init, seed, window)
    repository, images = out / "model_repository", dataset.frames[0].path.parent
    serve = ("python", "-m", "server", "--model-repository", f"{repository}")
    cells = ("--pipeline", "yolo", "--out", f"{out / 'cells'}", "--save", "labels,table,overlay")
    click.secho("\nServe it:", bold=True)
    click.echo(f"  {shlex.join(serve)}")
    click.secho("Segment with it, in another terminal:", bold=True)
    click.echo(f"  {shlex.join(('cytoserve', 'segment', f'{images}', *cells))}")


def _check_out(out: Path, resume: bool) -> None:
    """Check that the folder is new, or holds the run to go on with."""
    begun = (out / RECORD).is_file()
    if resume and not begun:
        raise click.UsageError(f"--out {out} holds no run to go on with; omit {RESUME}.")
    if not resume and out.exists() and any(out.iterdir()):
        remedy = f", or go on with the run that was cut off there: add {RESUME}" if begun else ""
        raise click.UsageError(f"--out {out} holds files already. Name a new folder{remedy}.")


def _check_data(checkpoint: Path, hashes: Mapping[str, str]) -> None:
    """Check that a network that is trained already has seen these images and annotations.

    Raises:
        ValueError: they changed since. An unfinished training finds out by itself.
    """
    trained = (checkpoint / RECIPE_FILE).is_file()
    if trained and read_recipe(checkpoint, ARCHITECTURE).data != hashes:
        raise ValueError(
            f"the network in {checkpoint} was trained on other images or annotations than --data "
            "holds now; name a new --out."
        )


def choose_window(dataset: AnnotatedDataset, init: str, seed: int) -> int:
    """Return the side of the training windows in network pixels: the preset's, or a whole tile.

    Raises:
        ValueError: the data set cannot be split, or ``init`` is no checkpoint of a YOLO. Training
            would find out as well, but later.
    """
    split_by_frame(dataset, PRESET.validation_share, seed)
    folder = init_folder(init)
    known = None if folder is None else read_recipe(folder, ARCHITECTURE).scale
    scale = fine_tuning_scale(measure_scale(dataset), known)
    largest = scale.largest_cell_px * scale.network_scale
    whole_tile = PRESETS["fine-tune"].window
    return PRESET.window if PRESET.window >= WINDOWS_PER_CELL * largest else whole_tile


def describe(dataset: AnnotatedDataset) -> Iterator[str]:
    """Tell what a data set with cells holds, a line for each fact; warn of classes with few cells.

    Raises:
        ValueError or OSError: the first image cannot be read.
    """
    frames, counts = dataset.frames, dataset.cells_per_class()
    first = frames[0].read()
    sizes = Counter(f"{frame.width} x {frame.height}" for frame in frames)
    kinds = ", ".join(f"{size}" for size, _ in sizes.most_common(3))
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    channels = "grey" if first.ndim == 2 else "RGB"
    yield f"{len(frames)} images of {kinds}{more} px; the first is {first.dtype} {channels}"
    cells = ", ".join(f"{number} {name}" for name, number in counts.items())
    empty = sum(not frame.cells for frame in frames)
    yield f"{sum(counts.values())} cells ({cells}); images without a cell: {empty}"
    low, middle, high = np.quantile(cell_diameters(dataset), (0.05, 0.5, 0.95))
    yield f"nine of ten cells are {low:.0f} to {high:.0f} px in diameter, median {middle:.0f} px"
    for name, number in counts.items():
        if number < FEW_CELLS:
            yield (
                f"warning: class '{name}' has {number} cells; a network rarely learns a class of "
                f"fewer than {FEW_CELLS}. Annotate more of them, or join two classes."
            )


def draw_previews(dataset: AnnotatedDataset, folder: Path) -> Iterator[Path]:
    """Draw some frames with their annotations, as an overlay of the client, and yield the files.

    The frames are spread evenly over those with cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = [frame for frame in dataset.frames if frame.cells]
    chosen = np.linspace(0, len(frames) - 1, min(PREVIEWS, len(frames))).round().astype(int)
    for frame in (frames[index] for index in chosen):
        picture = draw_overlay(frame.read(), annotated(frame, dataset.class_names))
        file = folder / f"{frame.name}.png"
        if not cv2.imwrite(str(file), picture[:, :, ::-1]):
            raise OSError(f"{file} could not be written; is the disk full?")
        yield file


def annotated(frame: AnnotatedFrame, class_names: tuple[str, ...]) -> Cells:
    """Return the annotations of a frame as if a pipeline had found them with certainty."""
    number = len(frame.cells)
    patches = np.zeros((number, MASK_SIZE, MASK_SIZE), np.uint8)
    for patch, cell in zip(patches, frame.cells, strict=True):
        patch[:] = cv2.resize(np.uint8(255) * cell.mask, (MASK_SIZE, MASK_SIZE))
    class_ids: npt.NDArray[np.int32] = np.array([cell.class_id for cell in frame.cells], np.int32)
    return Cells(
        boxes=np.array([cell.box for cell in frame.cells], np.float32).reshape(number, 4),
        scores=np.ones(number, np.float32),
        class_ids=class_ids,
        class_probs=np.eye(len(class_names), dtype=np.float32)[class_ids],
        patches=patches,
        frame_shape=(frame.height, frame.width),
        class_names=class_names,
        found=number,
    )


def train_and_export(
    stages: Stages,
    data: tuple[str, ...],
    pixel_sizes: tuple[float, ...],
    out: Path,
    minutes: float,
    init: str,
    seed: int,
    window: int,
) -> None:
    """Fine-tune a YOLO for the data's classes, and export it to a repository of its own."""
    checkpoint = out / "yolo"
    cut_off = RunFolder(checkpoint, STATE_NAME).state.is_file()
    stages.run(
        f"Training YOLO11n-seg for {minutes:g} minutes" + (" in all" if cut_off else ""),
        *("python", "-m", "training.yolo", "fine-tune", "--preset", "demo", *precision_options()),
        *(word for argument in data for word in ("--data", argument)),
        *(word for size in pixel_sizes for word in ("--pixel-size", f"{size:g}")),
        *("--init", init, "--minutes", f"{minutes:g}", "--window", f"{window}"),
        *("--seed", f"{seed}", "--out", checkpoint),
        resume=cut_off,
    )
    stages.run(
        "Exporting it as the pipeline `yolo`, every graph compared with PyTorch",
        *("python", "-m", "export", "yolo", "--targets", checkpoint),
        *("--model-repository", out / "model_repository"),
    )


if __name__ == "__main__":
    main()
