"""Trains the models that the project ships, and measures them on test images they never saw.

\b
    python -m benchmarks.general --data data

DATA holds dsb2018 (nuclei in fluorescence, stained tissue and bright field; CC0), bccd (blood
smears; MIT) and t98g (phase contrast; MIT). One YOLO11n-seg learns all cells and nuclei as one
class, and one small U-Net their foreground. Some rendered frames, most of them without a cell,
teach them what is none. The lists of images and the settings are in `benchmarks/general/`; of every
kind of image a fixed part is kept for the test. Training takes an hour and a half on two cores. The
weights are written to `training/general/` as float16, with a card, and the figures to
`benchmarks/results/general.json` and `general.md`.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.harness.results import times_table
from training.checkpoint import load_checkpoint, read_recipe, save_checkpoint
from training.run.folder import STATE_NAME, RunFolder
from training.run.stages import Stages, begin_afresh, precision_options, resume_command
from training.unet.network import ARCHITECTURE as UNET
from training.yolo.settings import ARCHITECTURE as YOLO
from training.yolo.settings import STATE_NAME as YOLO_STATE

LISTS = Path("benchmarks/general")
RESULTS = Path("benchmarks/results")
SHIPPED = Path("training/general")
BLOOD = Path("benchmarks/bccd/general.txt")


RENDERED = {"frame": 4, "empty": 10}
"""Prefix of the names of rendered frames -> their number."""

RENDER_SETTINGS = {
    "frame": ("--seed", "21", "--width", "640", "--height", "480"),
    "empty": ("--seed", "22", "--cells", "0", "--debris", "20"),
}
"""The empty ones have five times the default debris, as clumps of specks look like cells."""


def render(stages: Stages, out: Path) -> list[str]:
    """Render frames with cells, and frames of debris alone; return their folders as data."""
    folders = []
    for prefix, number in RENDERED.items():
        folders.append(f"{out / prefix}")
        stages.run(
            f"Rendering frames: {prefix}",
            *("python", "-m", "training.rendered", out / prefix, "--frames", f"{number}"),
            *(*RENDER_SETTINGS[prefix], "--prefix", prefix),
        )
    return folders


def train(stages: Stages, data: Path, out: Path) -> None:
    """Train both networks on the same images."""
    rendered = render(stages, out / "rendered")
    frames = (
        *(word for folder in rendered for word in ("--data", folder)),
        *("--data", f"{data}/dsb2018@{LISTS}/train-nuclei.txt"),
        *("--data", f"{data}/bccd@{BLOOD}"),
        *("--data", f"{data}/t98g@{LISTS}/train-phase-contrast.txt"),
    )
    fast = precision_options()
    stages.run(
        "Training YOLO11n-seg on cells and nuclei of all kinds, one class",
        *("python", "-m", "training.yolo", "general", *fast, *frames),
        *("--settings", LISTS / "yolo.yaml", "--out", out / "yolo"),
        resume=RunFolder(out / "yolo", YOLO_STATE).state.is_file(),
    )
    stages.run(
        "Training a small U-Net on their foreground",
        *("python", "-m", "training.unet", "glioma", *fast, *frames),
        *("--settings", LISTS / "unet.yaml", "--out", out / "unet"),
        resume=RunFolder(out / "unet", STATE_NAME).state.is_file(),
    )


def ship(out: Path, shipped: Path) -> None:
    """Write both checkpoints anew, their matrices and kernels as float16.

    Statistics, biases and scales stay float32: they are few, and some are too small for float16.
    """
    for name, architecture in {"yolo": YOLO, "unet": UNET}.items():
        weights, recipe = load_checkpoint(out / name, architecture)
        halved = {
            key: tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
            for key, tensor in weights.items()
        }
        (shipped / name).mkdir(parents=True, exist_ok=True)
        save_checkpoint(shipped / name, halved, recipe)


def export_and_measure(stages: Stages, data: Path, out: Path, shipped: Path, results: Path) -> None:
    """Export what is shipped, and measure it through the server."""
    repository = out / "model_repository"
    common = ("--model-repository", repository)
    stages.run(
        "Exporting `yolo`",
        *("python", "-m", "export", "yolo", "--targets", shipped / "yolo", *common),
    )
    stages.run(
        "Exporting `glioma_unet`",
        *("python", "-m", "export", "glioma_unet", "--checkpoint", shipped / "unet", *common),
    )
    stages.run(
        "Measuring them on test images of every kind",
        *("python", "-m", "benchmarks.general.measure", "--data", data, *common),
        *("--json", results / "general.json", "--markdown", out / "general.md"),
    )


CARD = LISTS / "card.md"
"""Text of the card, with places for the figures."""


def card(shipped: Path, figures: str) -> str:
    """Return the card of the shipped networks."""
    recipe = read_recipe(shipped / "yolo", YOLO)
    assert recipe.threshold
    assert recipe.scale
    assert recipe.scale.cell_diameters_px
    least, most = recipe.scale.cell_diameters_px
    lists = (LISTS / "train-nuclei.txt", BLOOD, LISTS / "train-phase-contrast.txt")
    return CARD.read_text().format(
        threshold=recipe.threshold.value,
        scale=recipe.scale.network_scale,
        least=least,
        most=most,
        rendered=sum(RENDERED.values()),
        empty=RENDERED["empty"],
        frames=sum(len(names.read_text().split()) for names in lists),
        megabytes=sum(file.stat().st_size for file in shipped.rglob("*.safetensors")) / 1e6,
        figures=figures,
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/general"))
@click.option("--shipped", type=click.Path(path_type=Path), default=SHIPPED)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
def main(data: Path, out: Path, shipped: Path, results: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.general"), out)
    train(stages, data, out)
    ship(out, shipped)
    export_and_measure(stages, data, out, shipped, results)
    figures = (out / "general.md").read_text()
    page = results / "general.md"
    page.write_text(f"# The shipped models\n\n{figures}\n{times_table(stages)}")
    (shipped / "README.md").write_text(card(shipped, figures))
    click.echo(f"\nWritten: {shipped}, {page} and {page.with_suffix('.json')}")


if __name__ == "__main__":
    main()
