"""Graphs for the variants `cuda` and `tensorrt`: larger chunks than a processor's, in float16."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from cytoserve.contract import CUDA_GRAPH, SAM_IMAGE, STEPS
from cytoserve.model_config import MANIFEST_FILE
from export.graphs.files import open_graph
from export.graphs.micro_batches import wrap_in_loop, wrap_in_row_scan
from export.graphs.tensorrt_form import all_rows_at_once
from export.parity.chain import newest_graphs
from export.repository.install import MODEL_FILE, Staging
from export.variants.gpu_proof import answers, in_half, noise, prove, read_graph

CHUNK_ROWS = {
    "yolo_cells": 16,
    "yolo_targets": 16,
    "resnet50_cells": 512,
    "nuclei_network": 64,
}
"""Number of rows that a network takes at once, which keeps a GPU busy within 1 to 2 GB.

No GPU has seen these numbers yet. SAM's encoder goes on tile by tile: the attention of one takes up
to a gigabyte. Networks on whole frames take one."""


def steps_with_graph() -> list[str]:
    """Names of the steps that the variants serve from a graph of their own."""
    return [step.name for step in STEPS.values() if CUDA_GRAPH in step.variants]


def export_cuda(
    repository: Path, half: bool, command: Sequence[str], tell: Callable[[str], None]
) -> list[Path]:
    """Make, prove and install these graphs, as far as their steps are exported.

    Args:
        repository: model repository.
        half: compute in float16.
        command: command line, for the manifest.
        tell: called with one line per step.

    Returns:
        The files.

    Raises:
        GpuProofError: a graph's answers deviate from those of the graph in use.
        FileNotFoundError: none of these steps is exported.
    """
    exported = newest_graphs(repository, steps_with_graph())
    if not exported:
        raise FileNotFoundError(
            f"none of {', '.join(steps_with_graph())} is exported to {repository}; export a "
            "pipeline first, such as: python -m export yolo"
        )
    made = {}
    with Staging(repository) as staging:
        for name, source in exported.items():
            tell(f"{name}: proving on noise")
            manifest = json.loads((source.parent / MANIFEST_FILE).read_text())
            network = all_rows_at_once(read_graph(name, source))
            chunked = in_chunks(name, network, manifest)
            graph = in_chunks(name, in_half(network), manifest) if half else chunked
            about = {
                "made_from": MODEL_FILE,
                "chunk_rows": CHUNK_ROWS.get(name, 1),
                "precision": "float16" if half else "float32",
                "parity": prove(name, source, graph, manifest, chunked if half else None),
                "command": list(command),
            }
            made[name] = graph, about
        file = str(CUDA_GRAPH.graph)
        return [staging.add_to_newest(name, file, *each) for name, each in made.items()]


def in_chunks(name: str, network: onnx.ModelProto, manifest: Mapping[str, Any]) -> onnx.ModelProto:
    """A network that takes all rows at once, in a loop of `CHUNK_ROWS` as far as it needs one."""
    step = STEPS[name]
    if step.inputs == (SAM_IMAGE,):
        return wrap_in_row_scan(network)
    if name not in CHUNK_ROWS:
        return network
    # A loop begins with zero rows of the results, whose dims a network for any number of classes
    # does not declare.
    found = answers(step, open_graph(network), noise(step, 1, manifest))
    for value in network.graph.output:
        sizes = found[value.name].shape[1:]
        for dim, size in zip(value.type.tensor_type.shape.dim[1:], sizes, strict=True):
            dim.dim_value = size
    return wrap_in_loop(network, CHUNK_ROWS[name])
