"""Export trained checkpoints into the model repository.

\b
    python -m export yolo        --targets runs/targets
    python -m export yolo_resnet --cells runs/general --classifier runs/classifier
    python -m export maskrcnn    --checkpoint runs/maskrcnn
    python -m export maskrcnn_sam --maskrcnn runs/maskrcnn --sam sam_vit_b.pth --sam-size vit_b
    python -m export sam_prompt  --sam runs/sam
    python -m export glioma_unet --checkpoint runs/glioma
    python -m export glioma_unet_livecell --checkpoint runs/glioma-livecell --resize-to 1472x1120
    python -m export nuclei_unet --checkpoint runs/nuclei
    python -m export int8        --pipeline yolo_resnet --frames data/more --data data/target
    python -m export openvino
    python -m export cuda
    python -m export tensorrt    --form
    python -m export bundle      OUT
    python -m export rollback    yolo
    python -m export configs
    python -m export contract-page
    python -m export lint

A graph is installed only if ONNX Runtime and torch give the same numbers for it, and if the whole
chain of a pipeline gives those of the libraries that trained it. Versions appear complete or not at
all. `int8`, `openvino`, `cuda` and `tensorrt` add to existing versions what the variants of these
names serve. `bundle` copies what is exported to a folder that NVIDIA's plain command serves:
`tritonserver --model-repository=OUT`. `rollback` brings the version of a pipeline back that was
served before its last export.
"""

from __future__ import annotations

import functools
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import numpy.typing as npt

from cytoserve.contract import (
    MAX_SIDE,
    OVERLAP_THRESHOLD,
    PIPELINES,
    SCORE_THRESHOLD,
    SINGLE_GRAPH,
    STEPS,
)
from training.run.command_line import DATA_HELP, read_data
from training.sam.settings import SIZES

if TYPE_CHECKING:
    from export.repository.pipelines import ExportedPipeline
    from training.checkpoint import LearnedScale

# Commands import what they need when they run: torch and its dependencies take ten seconds, which
# `--help`, `lint` and a mistyped option do not need to wait for.

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_REPOSITORY = "model_repository"
REPOSITORY = click.option(
    "--model-repository",
    "repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=DEFAULT_REPOSITORY,
    show_default=True,
    help="Where the configurations and the exported versions are.",
)


def existing_or_new(context: click.Context, parameter: click.Parameter, folder: Path) -> Path:
    """Check that the folder of ``--model-repository`` is one, or is new or empty."""
    from cytoserve.model_config import CONFIG_FILE

    if is_new(folder):
        if folder == Path(DEFAULT_REPOSITORY):
            raise click.BadParameter(
                f"there is no {folder} here; run this in the folder of the project, or name a new "
                "folder that shall become a model repository."
            )
    elif next(folder.glob(f"*/{CONFIG_FILE}"), None) is None:
        raise click.BadParameter(
            f"{folder} holds other files and no {CONFIG_FILE}; name a model repository, or a new "
            "folder that shall become one."
        )
    return folder


def is_new(folder: Path) -> bool:
    """Tell whether a folder does not exist or is empty."""
    return not folder.exists() or not any(folder.iterdir())


TARGET = click.option(
    "--model-repository",
    "repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_REPOSITORY,
    show_default=True,
    callback=existing_or_new,
    help="Where the exported versions go. A new folder becomes a model repository.",
)
VARIANT_NAMES = sorted(
    {variant.name for step in STEPS.values() for variant in step.variants} | {SINGLE_GRAPH}
)

FRAMES = click.option(
    "--frames",
    type=click.Path(path_type=Path, exists=True),
    help="Image file or folder to prove the chain on. Default: frames that the checkpoint was "
    "trained on, or rendered ones where those are gone.",
)
LARGEST_OVER_MEDIAN = 3.0
"""Side of the largest cells per median diameter, used where only the latter is given."""


def scale_options(command: Command) -> Command:
    """Options that give the scale of an old checkpoint; the command gets them as ``told``."""

    @click.option(
        "--network-scale",
        type=click.FloatRange(min=0, min_open=True),
        help="Network pixels per frame pixel, for a checkpoint of an earlier version, which "
        "records no scale: what its training resized frames by.",
    )
    @click.option(
        "--cell-diameter",
        type=click.FloatRange(min=0, min_open=True),
        help="Median diameter of its cells in frame pixels, given with --network-scale.",
    )
    @functools.wraps(command)
    def with_scale(
        network_scale: float | None, cell_diameter: float | None, **options: Any
    ) -> None:
        command(told=told_scale(network_scale, cell_diameter), **options)

    return cast(Command, with_scale)


def told_scale(network_scale: float | None, cell_diameter: float | None) -> LearnedScale | None:
    """The scale that the two options give; None without them."""
    if network_scale is None and cell_diameter is None:
        return None
    if network_scale is None or cell_diameter is None:
        raise click.UsageError(
            "--network-scale and --cell-diameter are given together; one is missing."
        )
    from training.checkpoint import LearnedScale

    return LearnedScale(
        network_scale=network_scale,
        cell_diameter_px=cell_diameter,
        largest_cell_px=LARGEST_OVER_MEDIAN * cell_diameter,
    )


INT8_PIPELINES = ("yolo", "yolo_resnet")
"""Pipelines whose networks the variant `int8` computes in integers."""

MESSAGE_LENGTH = 600
"""Maximum length of an error message, in characters.

torch lists every tensor that does not fit a network; the first few are enough."""


class ExportGroup(click.Group):
    """Commands whose expected failures end in one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if not isinstance(error, _failures()):
                raise
            message = textwrap.shorten(str(error), MESSAGE_LENGTH, placeholder=" …")
            raise click.ClickException(message) from error


def _failures() -> tuple[type[Exception], ...]:
    """Errors that a user can fix; anything else is a defect and keeps its traceback."""
    from cytoserve.model_config import ModelConfigError
    from export.parity.steps import ParityError
    from export.repository.install import RepositoryBusyError
    from export.sam.steps import SamSizesError
    from training.checkpoint import CheckpointError

    return (
        CheckpointError,
        ModelConfigError,
        ParityError,
        RepositoryBusyError,
        SamSizesError,
        OSError,
    )


def _checkpoint(name: str, text: str) -> Callable[[Command], Command]:
    path = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option(name, type=path, required=True, help=text)


@click.group(cls=ExportGroup, help=__doc__)
def main() -> None:
    """Export commands; the module's docstring is the help."""


@main.command()
@_checkpoint("--targets", "Checkpoint of `python -m training.yolo fine-tune`.")
@scale_options
@TARGET
@FRAMES
def yolo(
    targets: Path,
    told: LearnedScale | None,
    repository: Path,
    frames: Path | None,
) -> None:
    """Pipeline `yolo`: a network fine-tuned to the target classes."""
    from export.parity.frames import parity_frames
    from export.yolo.steps import export_yolo
    from training.checkpoint import read_recipe
    from training.yolo.settings import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(targets, ARCHITECTURE))
    _install(export_yolo(targets, _say, told), repository, chosen)


@main.command("yolo_resnet")
@_checkpoint("--cells", "Checkpoint of `python -m training.yolo general`.")
@_checkpoint("--classifier", "Checkpoint of `python -m training.resnet`.")
@scale_options
@TARGET
@FRAMES
def yolo_resnet(
    cells: Path,
    classifier: Path,
    told: LearnedScale | None,
    repository: Path,
    frames: Path | None,
) -> None:
    """Pipeline `yolo_resnet`: a one-class network, then a classifier on every cell."""
    from export.parity.frames import parity_frames
    from export.two_networks import export_yolo_resnet
    from training.checkpoint import read_recipe
    from training.yolo.settings import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(cells, ARCHITECTURE))
    _install(export_yolo_resnet(cells, classifier, _say, told), repository, chosen)


@main.command()
@_checkpoint("--checkpoint", "Checkpoint of `python -m training.maskrcnn`.")
@scale_options
@TARGET
@FRAMES
def maskrcnn(
    checkpoint: Path,
    told: LearnedScale | None,
    repository: Path,
    frames: Path | None,
) -> None:
    """Pipeline `maskrcnn`: torchvision's Mask R-CNN."""
    from export.maskrcnn.steps import export_maskrcnn
    from export.parity.frames import parity_frames
    from training.checkpoint import read_recipe
    from training.maskrcnn.network import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(checkpoint, ARCHITECTURE))
    _install(export_maskrcnn(checkpoint, _say, told), repository, chosen)


SAM = click.option(
    "--sam",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Checkpoint of `python -m training.sam`, or a .pth file as segment-anything publishes it.",
)
SAM_SIZE = click.option(
    "--sam-size", type=click.Choice(SIZES), help="Size of a published SAM; a checkpoint tells it."
)
FP16 = click.option(
    "--fp16",
    is_flag=True,
    help="Let SAM's image encoder compute in float16: half the file, and faster on a GPU.",
)


@main.command("maskrcnn_sam")
@_checkpoint("--maskrcnn", "Checkpoint of `python -m training.maskrcnn`.")
@SAM
@SAM_SIZE
@FP16
@scale_options
@TARGET
@FRAMES
def maskrcnn_sam(
    maskrcnn: Path,
    sam: Path,
    sam_size: str | None,
    fp16: bool,
    told: LearnedScale | None,
    repository: Path,
    frames: Path | None,
) -> None:
    """Pipeline `maskrcnn_sam`: boxes of Mask R-CNN as prompts for SAM."""
    from export.parity.frames import parity_frames
    from export.two_networks import export_maskrcnn_sam
    from training.checkpoint import read_recipe
    from training.maskrcnn.network import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(maskrcnn, ARCHITECTURE))
    pipeline = export_maskrcnn_sam(maskrcnn, sam, sam_size, fp16, _say, told)
    _install(pipeline, repository, chosen)


@main.command("sam_prompt")
@SAM
@SAM_SIZE
@FP16
@TARGET
@FRAMES
def sam_prompt(
    sam: Path, sam_size: str | None, fp16: bool, repository: Path, frames: Path | None
) -> None:
    """Pipeline `sam_prompt`: SAM, prompted by boxes, points and coarse masks."""
    from export.parity.frames import parity_frames
    from export.sam.steps import export_sam_prompt

    pipeline = export_sam_prompt(sam, sam_size, fp16, _say)
    _install(pipeline, repository, parity_frames(frames, pipeline.recipes["sam_encoder"]))


def frame_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Parse the value of ``--resize-to`` to (width, height)."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", value)
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise click.BadParameter(
            f"{value!r} is no size; write width x height in pixels, 1 to {MAX_SIDE} each, as in "
            "1472x1120."
        )
    return sides


UNET = _checkpoint("--checkpoint", "Checkpoint of `python -m training.unet`.")
RESIZE_TO = click.option(
    "--resize-to",
    metavar="WxH",
    callback=frame_size,
    help="Resize every frame to this size before the network, and its probability back: the size "
    "that it was trained on, where frames come in another. Default: frames as they are.",
)


@main.command("glioma_unet")
@UNET
@RESIZE_TO
@TARGET
@FRAMES
def glioma_unet(
    checkpoint: Path, resize_to: tuple[int, int] | None, repository: Path, frames: Path | None
) -> None:
    """Pipeline `glioma_unet`: a U-Net on whole frames, ImageNet-initialised."""
    _glioma("glioma_unet", checkpoint, resize_to, repository, frames)


@main.command("glioma_unet_livecell")
@UNET
@RESIZE_TO
@TARGET
@FRAMES
def glioma_unet_livecell(
    checkpoint: Path, resize_to: tuple[int, int] | None, repository: Path, frames: Path | None
) -> None:
    """Pipeline `glioma_unet_livecell`: a U-Net on whole frames, pre-trained on LIVECell."""
    _glioma("glioma_unet_livecell", checkpoint, resize_to, repository, frames)


def _glioma(
    name: str,
    checkpoint: Path,
    resize_to: tuple[int, int] | None,
    repository: Path,
    frames: Path | None,
) -> None:
    from export.parity.frames import parity_frames
    from export.unet.steps import export_glioma_unet
    from training.checkpoint import read_recipe
    from training.unet.network import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(checkpoint, ARCHITECTURE))
    _install(export_glioma_unet(name, checkpoint, resize_to, _say), repository, chosen)


@main.command("nuclei_unet")
@UNET
@TARGET
@FRAMES
def nuclei_unet(checkpoint: Path, repository: Path, frames: Path | None) -> None:
    """Pipeline `nuclei_unet`: a U-Net on overlapping tiles of stained tissue."""
    from export.parity.frames import parity_frames
    from export.unet.steps import export_nuclei_unet
    from training.checkpoint import read_recipe
    from training.unet.network import ARCHITECTURE

    chosen = parity_frames(frames, read_recipe(checkpoint, ARCHITECTURE))
    _install(export_nuclei_unet(checkpoint, _say), repository, chosen)


@main.command()
@click.option("--pipeline", type=click.Choice(INT8_PIPELINES), required=True)
@click.option(
    "--frames",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Image file or folder to calibrate on, eight frames or more like those to be served.",
)
@click.option(
    "--data",
    multiple=True,
    required=True,
    help=f"{DATA_HELP} The pipeline is proven on it; none of its frames may be among --frames.",
)
@click.option("--score-threshold", type=click.FloatRange(0, 1), default=SCORE_THRESHOLD)
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), default=OVERLAP_THRESHOLD)
@REPOSITORY
def int8(
    pipeline: str,
    frames: Path,
    data: Sequence[str],
    score_threshold: float,
    overlap_threshold: float,
    repository: Path,
) -> None:
    """Networks of an exported pipeline in 8-bit integers, for the variant `int8`.

    They are installed only if, on annotated frames, mean IoU and accuracy drop by at most 0.005.
    """
    from export.parity.frames import all_frames
    from export.variants.int8 import Settings, export_int8

    annotated = read_data(data, one_class=False)[0].frames
    settings = Settings(score_threshold, overlap_threshold, tuple(_command()))
    calibration = all_frames(frames, {frame.path for frame in annotated})
    for file in export_int8(repository, pipeline, calibration, annotated, settings, _say):
        click.echo(str(file))


@main.command()
@REPOSITORY
def openvino(repository: Path) -> None:
    """Networks in a form that OpenVINO can compute, for the variant `openvino`."""
    from export.variants.openvino import export_openvino

    for file in export_openvino(repository, _command()):
        click.echo(str(file))


PRECISION = click.option(
    "--precision",
    type=click.Choice(("fp16", "fp32")),
    default="fp16",
    show_default=True,
    help="Compute in float16, within a budget, or as exactly as on a processor.",
)
FORM, CHECK, FITS = "form", "check", "fits"


@main.command()
@PRECISION
@REPOSITORY
def cuda(precision: str, repository: Path) -> None:
    """Networks in larger chunks and in float16, for the variants `cuda` and `tensorrt`.

    They are made on any machine.
    """
    from export.variants.cuda import export_cuda
    from export.variants.gpu_proof import GpuProofError

    try:
        files = export_cuda(repository, precision == "fp16", _command(), _say)
    except GpuProofError as error:
        raise click.ClickException(str(error)) from error
    for file in files:
        click.echo(str(file))


@main.command()
@click.option(
    "--form",
    "task",
    flag_value=FORM,
    help="On any machine: make the graphs that plans are made of, and prove them.",
)
@click.option(
    "--check",
    "task",
    flag_value=CHECK,
    help="On any machine with TensorRT-RTX: parse and build these graphs. Nothing is installed.",
)
@click.option(
    "--fits", "task", flag_value=FITS, help="Tell which plans this machine cannot serve, and why."
)
@click.option(
    "--pipeline",
    "pipelines",
    type=click.Choice(list(PIPELINES)),
    multiple=True,
    help="Pipeline whose steps are meant; may be given several times. Default: all.",
)
@PRECISION
@REPOSITORY
def tensorrt(
    task: str | None, pipelines: tuple[str, ...], precision: str, repository: Path
) -> None:
    """TensorRT plans for this machine's GPU, for the variant `tensorrt`.

    Without --form, --check or --fits, a plan is made of every graph that --form has made, and is
    installed only if it answers as that graph does.
    """
    from export.graphs.tensorrt_engine import EngineError
    from export.variants.gpu_proof import GpuProofError
    from export.variants.plans import PlanError, export_plans, misfits
    from export.variants.tensorrt import export_forms

    half, files = precision == "fp16", list[Path]()
    try:
        if task == FORM:
            files = export_forms(repository, pipelines, half, _command(), _say)
        elif task == CHECK:
            _check_tensorrt(repository, pipelines, half)
        elif task == FITS:
            _refuse(list(misfits(repository, pipelines)))
        else:
            files = export_plans(repository, pipelines, _command(), _say)
    except (EngineError, GpuProofError, PlanError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    for file in files:
        click.echo(str(file))


def _check_tensorrt(repository: Path, pipelines: Sequence[str], half: bool) -> None:
    """Print what TensorRT's parser and builder say of every graph."""
    from export.graphs.tensorrt_engine import load_rtx
    from export.variants.tensorrt import check_graphs

    refused = []
    for each in check_graphs(load_rtx(), repository, pipelines, half):
        if each.refused:
            refused.append(f"{each.name}: {each.refused}")
            continue
        megabytes = each.plan_bytes / 1e6
        click.echo(f"{each.name}: parsed and built, {megabytes:.1f} MB in {each.seconds:.1f} s")
    _refuse(refused)


def _refuse(lines: Sequence[str]) -> None:
    """Print these lines and end with exit code 1, if there are any."""
    for line in lines:
        click.echo(line)
    if lines:
        raise click.ClickException(f"TensorRT cannot serve {len(lines)} of the steps as they are.")


@main.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False, resolve_path=True))
@click.option(
    "--pipeline",
    "pipelines",
    type=click.Choice(list(PIPELINES)),
    multiple=True,
    help="Pipeline to copy; may be given several times. Default: all that are exported.",
)
@click.option(
    "--variant",
    type=click.Choice(VARIANT_NAMES),
    help="Make the configurations of this variant the default ones.",
)
@REPOSITORY
def bundle(out: Path, pipelines: tuple[str, ...], variant: str | None, repository: Path) -> None:
    """Copy what is exported to OUT, in the form that starts with NVIDIA's plain command.

    `tritonserver --model-repository=OUT` loads every folder, and ends if one is not exported. OUT
    holds the newest version of each model of the pipelines, and no other model.
    """
    from export.repository.bundle import NotExportedError, exported_pipelines, write_bundle

    if not is_new(out):
        raise click.BadParameter(f"{out} holds files; name a new folder.", param_hint="OUT")
    names = pipelines or exported_pipelines(repository)
    if not names:
        raise click.ClickException(
            f"no pipeline is exported to {repository}; export one, such as: python -m export yolo"
        )
    try:
        models = write_bundle(repository, out, names, variant)
    except NotExportedError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(models)} models of {', '.join(names)}")
    click.echo(f"Serve it with: tritonserver --model-repository={out}")


@main.command()
@click.argument("pipelines", type=click.Choice(list(PIPELINES)), nargs=-1, required=True)
@REPOSITORY
def rollback(pipelines: tuple[str, ...], repository: Path) -> None:
    """Go back to the version of PIPELINES that was served before their last export.

    The newest version is removed. Pipelines that share a model go back together.
    """
    from export.repository.rollback import RollbackError, roll_back

    try:
        removed = roll_back(repository, pipelines)
    except RollbackError as error:
        raise click.ClickException(str(error)) from error
    for folder in removed:
        click.echo(f"removed {folder}")


@main.command()
@REPOSITORY
def configs(repository: Path) -> None:
    """Write every config.pbtxt, and those of the variants, from the contract."""
    from export.repository.configs import write_configs

    changed = write_configs(repository)
    for path in changed:
        click.echo(str(repository / path))
    click.echo(f"{repository}: {len(changed)} of the configurations changed")


@main.command("contract-page")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="docs/contract.md",
    show_default=True,
    help="File to write.",
)
def write_contract_page(out: Path) -> None:
    """Write the page on every pipeline's tensors, from the contract."""
    from export.repository.contract_page import contract_page

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(contract_page())
    click.echo(str(out))


@main.command()
@REPOSITORY
def lint(repository: Path) -> None:
    """Compare configurations with the contract, and exported models with their manifests."""
    from export.lint import lint_repository

    problems = lint_repository(repository)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise click.ClickException(f"{len(problems)} problems in {repository}")
    click.echo(f"{repository}: every model agrees with the contract")


def _command() -> list[str]:
    return ["python", "-m", "export", *sys.argv[1:]]


def _say(text: str) -> None:
    click.echo(text, err=True)


def _install(
    pipeline: ExportedPipeline, repository: Path, frames: Mapping[str, npt.NDArray[Any]]
) -> None:
    from export.repository.configs import make_repository
    from export.repository.pipelines import install_pipeline

    if is_new(repository):
        make_repository(repository)
        click.echo(f"{repository}: new model repository")
    for folder in install_pipeline(pipeline, repository, frames, _command(), _say):
        click.echo(str(folder))


if __name__ == "__main__":
    main(prog_name="python -m export")
