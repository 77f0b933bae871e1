"""Installing whole pipelines: every step is proven, then the chain, then all versions appear.

Two graphs are made here: that of the model card, and, for the variant `single-graph`, all graphs of
a pipeline as one, in which no step waits for another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, helper

from cytoserve import __version__
from cytoserve.contract import CARD_INPUT, CARD_OUTPUT, PIPELINES, STEPS, Step, Tensor
from export.graphs.files import ELEMENT_TYPES, OPSET, open_graph
from export.parity.chain import Chain
from export.parity.instances import THRESHOLDS, instance_inputs
from export.parity.steps import ExportedStep, ParityError, allowed, deviation
from export.repository.install import MODEL_FILE, StagedModel, Staging
from training.checkpoint import LearnedAppearance, LearnedScale, Recipe

PARITY_MAX_CELLS = 50
"""Maximum number of cells per frame in the comparison.

Each cell costs the classifier's time twice, and thousands would show no more."""

Progress = Callable[[str], None]
"""Callback for progress messages: it is called with what is being done."""


@dataclass(frozen=True)
class ExportedPipeline:
    """A pipeline with every step proven; nothing of it is written yet."""

    name: str
    class_names: tuple[str, ...]
    steps: tuple[ExportedStep, ...]
    recipes: Mapping[str, Recipe]
    """Step -> recipe, for the steps that were trained."""
    reference: str
    """Name of the library that the chain is compared with."""
    check: Callable[[Chain, Mapping[str, npt.NDArray[Any]]], Sequence[Any]]
    """Compares the chain with the reference on frames, given by name.

    It returns dataclasses of figures, or raises `ParityError`."""
    threshold: float | None = None
    """Score or probability threshold that the training chose."""
    scale: LearnedScale | None = None
    """Scale at which an instance pipeline sees frames; None for other pipelines."""
    appearance: LearnedAppearance | None = None
    """Look of the frames that the network which finds the cells learned from, if it is known."""


def install_pipeline(
    pipeline: ExportedPipeline,
    repository: Path,
    frames: Mapping[str, npt.NDArray[Any]],
    command: Sequence[str],
    say: Progress,
) -> list[Path]:
    """Stage every model, prove the chain, and only then let the versions appear.

    Args:
        pipeline: the pipeline with its exported steps.
        repository: the model repository, with its configurations.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]`` to prove the chain on.
        command: the command line, for the manifest.
        say: callback for progress messages.

    Returns:
        The version folders that are now served.

    Raises:
        ParityError: the chain's answers deviate from its reference's.
        RepositoryBusyError: another export is writing into the repository.
        OSError: the repository cannot be written, or the disk is full. After any of these errors,
            nothing has been installed.
    """
    origin = {
        "command": list(command),
        "cytoserve": __version__,
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with Staging(repository) as staging:
        staged = [
            staging.add_graph(
                step.name,
                step.graph,
                _step_manifest(pipeline, step) | origin,
            )
            for step in pipeline.steps
        ]
        say(f"comparing the chain with {pipeline.reference} on {len(frames)} frames")
        files = {model.name: model.folder / MODEL_FILE for model in staged}
        chain = Chain(repository, pipeline.name, files)
        figures = pipeline.check(chain, frames)
        if merged := PIPELINES[pipeline.name].merged_step:
            say(f"joining the steps to {merged}")
            graphs = {step.name: step.graph for step in pipeline.steps}
            joined = export_merged(STEPS[merged], chain, graphs, frames, pipeline.scale)
            manifest = _step_manifest(pipeline, joined) | origin
            staged.append(staging.add_graph(merged, joined.graph, manifest))
        card = _card(pipeline, staging, staged)
        parity = [dataclasses.asdict(figure) for figure in figures]
        staged.append(staging.add_ensemble(pipeline.name, card, {"parity": parity, **origin}))
        # The card comes last: a client that reads the new one is served by the new models.
        staged.append(staging.add_graph(PIPELINES[pipeline.name].card, card_graph(card), origin))
        return staging.install(staged)


def _step_manifest(pipeline: ExportedPipeline, step: ExportedStep) -> dict[str, Any]:
    """Manifest entries of a step, without those of the export that made it."""
    settings = dict(step.settings)
    recipe = _recipe(pipeline, step.name)
    return {"parity": step.parity, "settings": settings, "recipe": recipe}


def _card(
    pipeline: ExportedPipeline, staging: Staging, staged: Sequence[StagedModel]
) -> dict[str, Any]:
    """The model card of a pipeline, see `cytoserve.contract.CARD_OUTPUT`."""
    return {
        "pipeline": pipeline.name,
        "class_names": list(pipeline.class_names),
        "models": {
            model.name: {
                "version": int(staging.target(model).name),
                "sha256": model.sha256[MODEL_FILE],
            }
            for model in staged
        },
        "recipes": {name: _recipe(pipeline, name) for name in pipeline.recipes},
        "threshold": pipeline.threshold,
        "scale": None if pipeline.scale is None else pipeline.scale.model_dump(),
        "appearance": None if pipeline.appearance is None else pipeline.appearance.model_dump(),
    }


def _recipe(pipeline: ExportedPipeline, step: str) -> dict[str, Any] | None:
    """The recipe of a step's network as JSON values; None for a step without one."""
    recipe = pipeline.recipes.get(step)
    return recipe.model_dump(mode="json") if recipe else None


def card_graph(content: dict[str, Any]) -> onnx.ModelProto:
    """Build a graph that answers page 0 with ``content`` as JSON.

    Triton passes neither class names nor hashes of model files to a client. A model whose only
    output is a constant string does, on every Triton and in the protocol that the client already
    speaks.

    A graph without any input would do as well, but Triton's requests carry at least one.
    """
    pages = helper.make_tensor(
        "pages", onnx.TensorProto.STRING, [1], [json.dumps(content, sort_keys=True).encode()]
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["pages", CARD_INPUT.name], [CARD_OUTPUT.name])],
        "card",
        [helper.make_tensor_value_info(CARD_INPUT.name, onnx.TensorProto.INT64, [1])],
        [helper.make_tensor_value_info(CARD_OUTPUT.name, onnx.TensorProto.STRING, [1])],
        [pages],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def export_merged(
    step: Step,
    chain: Chain,
    graphs: Mapping[str, onnx.ModelProto],
    frames: Mapping[str, npt.NDArray[np.generic]],
    scale: LearnedScale | None = None,
) -> ExportedStep:
    """Join the graphs of a pipeline's steps and compare both on frames at several thresholds.

    Args:
        step: step of the contract with the inputs and outputs of the joined graph.
        chain: the pipeline, running the same graphs.
        graphs: the steps' graphs by name.
        frames: name -> camera frame ``[H, W]`` or ``[H, W, C]``.
        scale: scale at which the frames are seen; None: one network pixel per frame pixel.

    Raises:
        ParityError: the joined graph deviates from its steps by more than rounding explains.
    """
    graph = merge_graphs(step, chain.steps, graphs)
    session, parity = open_graph(graph), {}
    outputs = [tensor.name for tensor in step.outputs]
    for frame, image in frames.items():
        for threshold in THRESHOLDS:
            inputs = instance_inputs(
                np.atleast_3d(image).astype(np.uint16),
                threshold,
                PARITY_MAX_CELLS,
                scale=1.0 if scale is None else scale.network_scale,
            )
            expected, answers = chain.run(inputs, outputs), session.run(outputs, inputs)
            case = {
                name: deviation(expected[name], answer)
                for name, answer in zip(outputs, answers, strict=True)
            }
            for name, figure in case.items():
                if figure > allowed(expected[name].dtype):
                    raise ParityError(
                        f"{step.name}, frame {frame} at score threshold {threshold}, output "
                        f"'{name}': one graph deviates from its steps by {figure:.3g}; at most "
                        f"{allowed(expected[name].dtype):g} is allowed."
                    )
            parity[f"{frame} at {threshold}"] = case
    return ExportedStep(step.name, graph, parity)


def merge_graphs(
    step: Step, wiring: Sequence[Any], graphs: Mapping[str, onnx.ModelProto]
) -> onnx.ModelProto:
    """Join graphs as an ensemble joins their models.

    Args:
        step: step with the inputs and outputs of the joined graph, named as the ensemble's wires.
        wiring: the steps of the ensemble's configuration, in order.
        graphs: the steps' graphs by name; steps that have none are left out.

    Raises:
        ValueError: the graphs are not all written in one version of ONNX's operators.
    """
    nodes, weights, opsets = [], [], set()
    for each in wiring:
        if each.model_name not in graphs:
            continue
        prefix = f"{each.model_name}/"
        model = compose.add_prefix(graphs[each.model_name], prefix)
        _forget_sizes(model.graph)
        # ONNX Runtime removes these Identity nodes when it opens the graph.
        nodes += [_identity(wire, prefix + own) for own, wire in sorted(each.input_map.items())]
        nodes += model.graph.node
        nodes += [_identity(prefix + own, wire) for own, wire in sorted(each.output_map.items())]
        weights += model.graph.initializer
        opsets.add(tuple((entry.domain, entry.version) for entry in model.opset_import))
    if len(opsets) != 1:
        raise ValueError(
            f"Graphs that are joined must use one version of the operators; given: {opsets}."
        )
    inputs, outputs = (list(_declared(step, side)) for side in (step.inputs, step.outputs))
    merged = helper.make_model(
        helper.make_graph(nodes, step.name, inputs, outputs, weights),
        opset_imports=[helper.make_opsetid(*entry) for entry in opsets.pop()],
        ir_version=max(graph.ir_version for graph in graphs.values()),
    )
    onnx.checker.check_model(merged)
    return merged


def _identity(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [target], name=f"{source} to {target}")


def _declared(step: Step, tensors: Sequence[Tensor]) -> Iterator[onnx.ValueInfoProto]:
    for tensor in tensors:
        dims = enumerate(step.graph_dims(tensor))
        named = [f"{tensor.name}_{axis}" if size == -1 else size for axis, size in dims]
        yield helper.make_tensor_value_info(tensor.name, ELEMENT_TYPES[tensor.dtype], named)


def _forget_sizes(graph: onnx.GraphProto) -> None:
    """Clear the names of varying sizes in the bodies of a graph's loops.

    ONNX Runtime takes sizes of one name to be equal, and two graphs may have given the same name to
    different sizes.
    """
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                body = attribute.g
                for value in (*body.input, *body.output, *body.value_info):
                    for dim in value.type.tensor_type.shape.dim:
                        if dim.HasField("dim_param"):
                            dim.Clear()
                _forget_sizes(body)
