"""Exports every pipeline into one repository for measurements, from briefly trained networks.

\b
    make study
    python -m benchmarks.all_pipelines --brecahad data/BreCaHAD
    python -m benchmarks.latency --model-repository runs/all/model_repository --json latency.json

The first command trains YOLO and ResNet50. `yolo` and `yolo_resnet` use the same YOLO network, so
that both find the same cells. Mask R-CNN, SAM of size `tiny` and the glioma U-Net are trained for a
few minutes on rendered frames, with the presets `demo`. They cost as much as any weights, but do
not find what the studies' networks find. `nuclei_unet` learns from stained tissue and is left out
without it.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.harness.load import CELL_DIAMETER
from training.nuclei_tiles import set_folder
from training.run.stages import Stages, begin_afresh, precision_options, resume_command

FRAMES = 24
SIDE = 1024
CELLS = 15
TILES = "256/128"
"""Study S3's set of tiles that `nuclei_unet` learns from."""

SEED = 201
"""Seed of the rendered frames, far from the seeds of the frames that are measured."""

EPOCHS = {"maskrcnn": 20, "sam": 4, "unet": 4, "nuclei": 1}
"""Epochs per network. Mask R-CNN's suffice to find cells, on whose number SAM's decoder depends."""


def train(stages: Stages, out: Path) -> None:
    """Train Mask R-CNN, SAM and the glioma U-Net on rendered frames."""
    frames, fast = out / "frames", precision_options()
    stages.run(
        f"Rendering {FRAMES} frames of {CELLS} cells",
        *("python", "-m", "training.rendered", frames, "--frames", f"{FRAMES}"),
        *("--width", f"{SIDE}", "--height", f"{SIDE}", "--seed", f"{SEED}"),
        *("--cells", f"{CELLS}", "--mean-diameter", f"{CELL_DIAMETER:g}"),
    )
    for name, command in (
        ("maskrcnn", ["training.maskrcnn", "--one-class"]),
        ("sam", ["training.sam"]),
        ("unet", ["training.unet", "glioma"]),
    ):
        stages.run(
            f"Training {name}",
            *("python", "-m", *command, "--preset", "demo", "--epochs", f"{EPOCHS[name]}", *fast),
            *("--data", frames, "--out", out / name),
        )


def train_nuclei(stages: Stages, brecahad: Path, out: Path) -> None:
    """Train the U-Net for stained tissue."""
    tiles = out / "tiles"
    stages.run(
        "Cutting tiles of stained tissue",
        *("python", "-m", "training.nuclei_tiles", "--data", brecahad, "--set", TILES),
        *("--out", tiles),
    )
    stages.run(
        "Training nuclei",
        *("python", "-m", "training.unet", "nuclei", "--preset", "demo"),
        *("--epochs", f"{EPOCHS['nuclei']}", *precision_options()),
        *("--tiles", set_folder(tiles, TILES), "--out", out / "nuclei"),
    )


def export(stages: Stages, cells: Path, classifier: Path, out: Path, repository: Path) -> None:
    """Export all pipelines whose networks exist into a fresh model repository."""
    networks = {
        "yolo": ("--targets", cells),
        "yolo_resnet": ("--cells", cells, "--classifier", classifier),
        "maskrcnn": ("--checkpoint", out / "maskrcnn"),
        "maskrcnn_sam": ("--maskrcnn", out / "maskrcnn", "--sam", out / "sam"),
        "sam_prompt": ("--sam", out / "sam"),
        "glioma_unet": ("--checkpoint", out / "unet"),
        "nuclei_unet": ("--checkpoint", out / "nuclei"),
    }
    for pipeline, options in networks.items():
        if pipeline != "nuclei_unet" or (out / "nuclei").exists():
            stages.run(
                f"Exporting `{pipeline}`",
                *("python", "-m", "export", pipeline, *options, "--model-repository", repository),
            )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--cells",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("runs/study/general"),
    help="Checkpoint of `python -m training.yolo`.",
)
@click.option(
    "--classifier",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("runs/study/classifier"),
    help="Checkpoint of `python -m training.resnet`.",
)
@click.option(
    "--brecahad",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Stained tissue as BreCaHAD's authors lay it out.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/all"))
@click.option("--resume", is_flag=True, help="Keep the stages that an earlier run has done.")
def main(cells: Path, classifier: Path, brecahad: Path | None, out: Path, resume: bool) -> None:
    """Run all stages; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.all_pipelines"), out)
    repository = out / "model_repository"
    train(stages, out)
    if brecahad is not None:
        train_nuclei(stages, brecahad, out)
    export(stages, cells, classifier, out, repository)
    click.echo(f"\nMeasure it with: --model-repository {repository}")


if __name__ == "__main__":
    main()
