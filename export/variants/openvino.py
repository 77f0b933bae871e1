"""Graphs for the variant `openvino`, for networks whose default graph OpenVINO cannot compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from cytoserve.contract import STEPS
from cytoserve.model_config import config_file, read_config
from export.graphs.files import open_graph, open_session
from export.graphs.micro_batches import unwrap_loop, wrap_in_scan
from export.parity.chain import newest_graphs
from export.parity.steps import ParityError, deviation
from export.repository.install import MODEL_FILE, Staging

VARIANT = "openvino"

CHUNK_ROWS: Mapping[str, int] = {
    "resnet50_cells": 8,
    "nuclei_network": 1,
}
"""Number of rows that a network takes at once.

The number is small for crops, since the last chunk is padded, and 1 for tiles, since one tile keeps
all cores busy. YOLO's default graphs already go tile by tile."""

TOLERANCE = {"u": 0.0, "f": 1e-6}
"""Largest deviation from the source graph, by kind of dtype: rounding alone."""


def export_openvino(repository: Path, command: Sequence[str]) -> list[Path]:
    """Make the graphs of these networks, as far as they are exported, and return the files.

    Raises:
        ParityError: a graph's answers deviate from those of its source.
        FileNotFoundError: none of these networks is exported.
    """
    exported = newest_graphs(repository, CHUNK_ROWS)
    if not exported:
        raise FileNotFoundError(
            f"none of {', '.join(CHUNK_ROWS)} is exported to {repository}; the other networks are "
            f"served by variant {VARIANT} as they are."
        )
    files = []
    with Staging(repository) as staging:
        for name, source in exported.items():
            graph = wrap_in_scan(unwrap_loop(onnx.load(source)), CHUNK_ROWS[name])
            about = {
                "made_from": MODEL_FILE,
                "chunk_rows": CHUNK_ROWS[name],
                "parity": check_same(name, source, graph, CHUNK_ROWS[name]),
                "command": list(command),
            }
            file = read_config(config_file(repository / name, VARIANT)).default_model_filename
            files.append(staging.add_to_newest(name, file, graph, about))
    return files


def check_same(name: str, source: Path, graph: onnx.ModelProto, rows: int) -> dict[str, float]:
    """Run both graphs on noise, with less than a chunk and more; number of rows -> deviation.

    Raises:
        ParityError: the graphs deviate by more than rounding explains.
    """
    step = STEPS[name]
    expected, made = open_session(source), open_graph(graph)
    figures = {}
    for count in sorted({0, 1, rows, rows + 1}):
        dims = (count, *step.inputs[0].dims)
        noise = np.random.default_rng(count).integers(0, 256, dims, np.uint8)
        answers = [session.run(None, {step.inputs[0].name: noise}) for session in (expected, made)]
        figures[f"{count} rows"] = max(map(deviation, *answers))
        for theirs, ours in zip(*answers, strict=True):
            if deviation(theirs, ours) > TOLERANCE[ours.dtype.kind]:
                raise ParityError(
                    f"{name} in chunks of {rows}, {count} rows: it deviates from {source.name} by "
                    f"{deviation(theirs, ours):.3g}."
                )
    return figures
