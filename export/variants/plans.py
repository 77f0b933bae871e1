"""TensorRT plans: made on the machine that serves them, proven there, and refused on any other.

A plan fits the TensorRT that made it and, as it is made here, every GPU of one compute capability.
Its key in the manifest says so. Of one repository, each GPU loads the plan of its own capability.
This module needs no torch, so that it runs in NVIDIA's image of Triton.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cytoserve.contract import COMPUTE_CAPABILITIES, PLAN_GRAPH, STEPS, plan_file
from cytoserve.files import file_sha256
from cytoserve.gpu import Gpu, NoGpuError, find_gpu
from export.graphs.files import open_session
from export.graphs.tensorrt_engine import (
    Profile,
    build_engine,
    load_tensorrt,
    run_engine,
)
from export.parity.half_precision import beyond_half_budget, half_deviation
from export.repository.install import Staging
from export.variants.gpu_proof import ROWS, Arrays, answers, noise
from export.variants.tensorrt import exported_steps, manifest_of, plan_profiles

COMMAND = "python -m export tensorrt"

WHERE = (
    "Plans are made on the machine that serves them, in NVIDIA's image of Triton. There, run: "
    f"{COMMAND}"
)


class PlanError(RuntimeError):
    """A plan cannot be made or served here, for the reason in the text, which has the remedy."""


def this_machine() -> Gpu:
    """Return this machine's GPU.

    Raises:
        PlanError: there is none, or no plan can be made for its generation.
    """
    try:
        gpu = find_gpu()
    except NoGpuError as error:
        raise PlanError(f"No GPU here: {error}. {WHERE}") from error
    if gpu.capability not in COMPUTE_CAPABILITIES:
        raise PlanError(
            f"{gpu.name} has compute capability {gpu.capability}, and plans are made for "
            f"{', '.join(COMPUTE_CAPABILITIES)}. Serve variant cuda."
        )
    return gpu


def export_plans(
    repository: Path,
    pipelines: Sequence[str],
    command: Sequence[str],
    tell: Callable[[str], None],
) -> list[Path]:
    """Make, prove and install a plan of every exported step that has one, for this GPU.

    A plan that fits already is left as it is.

    Args:
        repository: model repository, with the graphs of `export.variants.tensorrt`.
        pipelines: pipelines whose steps are meant; none: all.
        command: command line, for the manifest.
        tell: called with one line per step.

    Returns:
        The files that were made.

    Raises:
        PlanError: there is no GPU, a graph is missing, or a plan answers otherwise than its graph.
        EngineError: TensorRT is missing, or refuses a graph.
        FileNotFoundError: no such step is exported.
    """
    gpu = this_machine()
    trt = load_tensorrt()
    made = []
    with Staging(repository) as staging:
        for name, source in exported_steps(repository, pipelines).items():
            graph = plan_graph(name, source)
            manifest = manifest_of(source.parent)
            profiles = plan_profiles(STEPS[name], manifest)
            key = plan_key(graph, manifest, profiles, trt.__version__, gpu.capability)
            file = plan_file(gpu.capability)
            if not misfit(source.parent, manifest, file, key):
                tell(f"{name}: {file} fits already")
                continue
            tell(f"{name}: building for {gpu.name}; this takes minutes")
            begun = time.monotonic()
            plan = build_engine(trt, graph, profiles)
            seconds = time.monotonic() - begun
            parity = prove_plan(name, graph, plan, manifest)
            about = {
                "key": key,
                "gpu": asdict(gpu),
                "seconds": round(seconds, 1),
                "bytes": len(plan),
                "parity": parity,
                "command": list(command),
            }
            made.append(staging.add_to_newest(name, file, plan, about))
    return made


def misfits(repository: Path, pipelines: Sequence[str]) -> Iterator[str]:
    """One line for every exported step whose plan this machine cannot serve.

    Raises:
        PlanError: there is no GPU, or a graph is missing.
        EngineError: TensorRT is missing.
        FileNotFoundError: no step with a plan is exported.
    """
    gpu = this_machine()
    version = load_tensorrt().__version__
    for name, source in exported_steps(repository, pipelines).items():
        manifest, file = manifest_of(source.parent), plan_file(gpu.capability)
        profiles = plan_profiles(STEPS[name], manifest)
        key = plan_key(plan_graph(name, source), manifest, profiles, version, gpu.capability)
        if reason := misfit(source.parent, manifest, file, key):
            yield f"{name}: {reason}. Make the plan anew with: {COMMAND}"


def plan_graph(name: str, source: Path) -> Path:
    """The graph that a step's plan is made of, beside the one in use.

    Raises:
        PlanError: it is missing.
    """
    graph = source.with_name(PLAN_GRAPH)
    if not graph.is_file():
        raise PlanError(f"{name} has no {PLAN_GRAPH}. Make it with: {COMMAND} --form")
    return graph


def plan_key(
    graph: Path,
    manifest: Mapping[str, Any],
    profiles: Mapping[str, Profile],
    version: str,
    capability: str,
) -> dict[str, Any]:
    """All that decides whether a plan fits: a plan with another key is made anew.

    Args:
        graph: file that the plan is made of.
        manifest: manifest of the version, which tells the graph's precision.
        profiles: input name -> shapes.
        version: TensorRT's version, all of its numbers.
        capability: compute capability of the GPU.
    """
    return {
        "graph_sha256": file_sha256(graph),
        "precision": manifest.get("variants", {}).get(PLAN_GRAPH, {}).get("precision"),
        "tensorrt": version,
        "compute_capability": capability,
        "profiles": {
            name: [list(profile.smallest), list(profile.usual), list(profile.largest)]
            for name, profile in profiles.items()
        },
        "compatibility": "same compute capability",
    }


def misfit(version: Path, manifest: Mapping[str, Any], file: str, key: Mapping[str, Any]) -> str:
    """Why a plan does not fit, in words; empty if it does.

    Args:
        version: the version folder.
        manifest: its manifest.
        file: name of the plan.
        key: the key that it should have.
    """
    if not (version / file).is_file():
        others = sorted(path.name for path in version.glob("model.sm*.plan"))
        there = f"; there is {', '.join(others)} for other GPUs" if others else ""
        return f"there is no {file}{there}"
    about = manifest.get("variants", {}).get(file, {})
    found = about.get("key", {})
    for part, wanted in key.items():
        if found.get(part) != wanted:
            return f"{file} was made for {part} {found.get(part)}, and here it is {wanted}"
    if file_sha256(version / file) != manifest.get("sha256", {}).get(file):
        return f"{file} is damaged: its sha256 is not that of its manifest"
    return ""


def prove_plan(
    name: str, graph: Path, plan: bytes, manifest: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Run a plan on this GPU and compare it with its graph in ONNX Runtime, on noise.

    Returns:
        Number of rows -> output -> deviation, in the units of `half_deviation`.

    Raises:
        PlanError: the plan deviates by more than the budget of float16.
        EngineError: the plan does not run.
    """
    step, session = STEPS[name], open_session(graph)
    most = plan_profiles(step, manifest)[step.inputs[0].name].largest[0]
    figures = {}
    for rows in (rows for rows in ROWS if rows <= most):
        given = noise(step, rows, manifest)
        expected, found = answers(step, session, given), run_engine(plan, given)
        figures[f"{rows} rows"] = compared(name, expected, found)
    return figures


def compared(name: str, expected: Arrays, found: Arrays) -> dict[str, float]:
    """Output -> deviation of a plan's answer from its graph's.

    Raises:
        PlanError: it is larger than the budget of float16.
    """
    if broken := beyond_half_budget(expected, found):
        raise PlanError(
            f"{name}: the plan answers otherwise than {PLAN_GRAPH} on noise: {'; '.join(broken)}. "
            f"Nothing was installed. Make the graph in float32: {COMMAND} --form --precision fp32"
        )
    return {key: half_deviation(array, found[key]) for key, array in expected.items()}
