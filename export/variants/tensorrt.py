"""Graphs that TensorRT makes plans of, for the variant `tensorrt`, checked without a GPU."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytoserve.contract import PIPELINES, PLAN_GRAPH, STEPS, TENSORRT, Step
from cytoserve.files import file_sha256
from cytoserve.model_config import MANIFEST_FILE
from export.graphs.files import save_graph
from export.graphs.tensorrt_engine import EngineError, Profile, build_engine
from export.graphs.tensorrt_form import tensorrt_form
from export.parity.chain import newest_graphs
from export.repository.install import MODEL_FILE, Staging
from export.variants.gpu_proof import in_half, prove, read_graph, sides_of

FLOAT16, FLOAT32 = "float16", "float32"


@dataclass(frozen=True)
class Checked:
    """Verdict of TensorRT's parser and builder on one step."""

    name: str
    plan_bytes: int
    seconds: float
    refused: str = ""
    """Reason, if TensorRT does not take the graph."""


def plan_rows(step: Step) -> tuple[int, int, int] | None:
    """Fewest, usual and most rows of a step's plan; None for a step without one."""
    rows = [variant.plan_rows for variant in step.variants if variant.name == TENSORRT]
    return rows[0] if rows else None


def steps_with_plan(pipelines: Sequence[str] = ()) -> list[str]:
    """Names of the steps that have a plan, of these pipelines or of all."""
    wanted = {step for name in pipelines or PIPELINES for step in PIPELINES[name].steps}
    return [name for name in STEPS if name in wanted and plan_rows(STEPS[name])]


def exported_steps(repository: Path, pipelines: Sequence[str] = ()) -> dict[str, Path]:
    """Step with a plan -> its graph in use, for those that are exported.

    Raises:
        FileNotFoundError: none is.
    """
    exported = newest_graphs(repository, steps_with_plan(pipelines))
    if not exported:
        wanted = f" for {', '.join(pipelines)}" if pipelines else ""
        raise FileNotFoundError(
            f"TensorRT runs {', '.join(steps_with_plan())}, and none of them is exported to "
            f"{repository}{wanted}. Variant {TENSORRT} serves other steps as variant cuda does."
        )
    return exported


def export_forms(
    repository: Path,
    pipelines: Sequence[str],
    half: bool,
    command: Sequence[str],
    tell: Callable[[str], None],
) -> list[Path]:
    """Make, prove and install the graphs that plans are made of.

    Args:
        repository: model repository.
        pipelines: pipelines whose steps are meant; none: all.
        half: let TensorRT compute in float16.
        command: command line, for the manifest.
        tell: called with one line per step.

    Returns:
        The files.

    Raises:
        GpuProofError: a graph's answers deviate from those of the graph in use.
        FileNotFoundError: no such step is exported.
    """
    made = {}
    exported = exported_steps(repository, pipelines)
    with Staging(repository) as staging:
        for name, source in exported.items():
            tell(f"{name}: proving on noise")
            manifest = manifest_of(source.parent)
            form = tensorrt_form(read_graph(name, source))
            graph = in_half(form) if half else form
            about = {
                "made_from": MODEL_FILE,
                "made_from_sha256": file_sha256(source),
                "precision": FLOAT16 if half else FLOAT32,
                "parity": prove(name, source, graph, manifest, form if half else None),
                "command": list(command),
            }
            made[name] = graph, about
        return [staging.add_to_newest(name, PLAN_GRAPH, *each) for name, each in made.items()]


def manifest_of(version: Path) -> dict[str, Any]:
    """The manifest of a version folder."""
    content: dict[str, Any] = json.loads((version / MANIFEST_FILE).read_text())
    return content


def plan_profiles(step: Step, manifest: Mapping[str, Any]) -> dict[str, Profile]:
    """Input name -> shapes that a step's plan takes: whole batches of tiles or crops of one size.

    Args:
        step: a step with a plan.
        manifest: manifest of its version, which tells the side of a SAM's input.
    """
    rows = plan_rows(step)
    assert rows is not None
    sides = sides_of(step, manifest)
    [tensor] = step.inputs
    dims = tuple(d if d != -1 else sides[index - 1] for index, d in enumerate(tensor.dims))
    return {tensor.name: Profile(*((count, *dims) for count in rows))}


def check_graphs(
    trt: Any, repository: Path, pipelines: Sequence[str], half: bool
) -> Iterator[Checked]:
    """Parse and build the graph of every exported step with a plan; nothing is installed.

    Args:
        trt: the module of TensorRT, see `tensorrt_engine.load_rtx`.
        repository: model repository.
        pipelines: pipelines whose steps are meant; none: all.
        half: precision of the graphs that are not made yet by `export_forms`.

    Raises:
        FileNotFoundError: no such step is exported.
    """
    for name, source in exported_steps(repository, pipelines).items():
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            graph = source.with_name(PLAN_GRAPH)
            if not graph.is_file():
                graph = Path(folder) / PLAN_GRAPH
                form = tensorrt_form(read_graph(name, source))
                save_graph(in_half(form) if half else form, graph)
            profiles = plan_profiles(STEPS[name], manifest_of(source.parent))
            try:
                plan, refused = build_engine(trt, graph, profiles), ""
            except EngineError as error:
                plan, refused = b"", str(error)
        yield Checked(name, len(plan), time.monotonic() - begun, refused)
