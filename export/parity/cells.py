"""Compare the cells that a graph and its module find; equal cells may differ in their order.

Which cells suppression leaves, and where a mended box ends, may depend on the last digit of a
number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch

from cytoserve.contract import (
    CANDIDATE_BOXES,
    CANDIDATE_IDS,
    CANDIDATE_MASKS,
    CANDIDATE_PROBS,
    CANDIDATE_SCORES,
    LARGE_CUT,
    WHOLE,
    Step,
)
from export.graphs.files import open_graph
from export.parity.chain import Arrays
from export.parity.instances import pair_cells
from export.parity.steps import Case, ParityError

UNMATCHED = 0.02
"""Share of both sides' cells that may have no partner; one cell per side always may.

A rounding in the last digit decides between two boxes with equal scores, or at a threshold."""

TOLERANCES = {"boxes": 0.1, "scores": 1e-3, "detected_probs": 1e-3, "masks": 0.5}
"""Largest deviation of paired cells.

Boxes are in frame pixels, scores and class probabilities are probabilities, and masks are mean
levels of 255 over all mask patches, a few of which may lie on another whole frame pixel."""

NAMES = {
    CANDIDATE_BOXES.name: "boxes",
    CANDIDATE_SCORES.name: "scores",
    CANDIDATE_IDS.name: "detected_ids",
    CANDIDATE_PROBS.name: "detected_probs",
    CANDIDATE_MASKS.name: "masks",
}
"""Tensors of candidates and of cells -> names that both are compared under."""

FLAGS = (WHOLE.name, LARGE_CUT.name)
"""Further flags of candidates, of which at most the share `UNMATCHED` may differ."""


def check_cells(
    module: torch.nn.Module, graph: onnx.ModelProto, step: Step, cases: Sequence[Case]
) -> dict[str, dict[str, float]]:
    """Run every case through module and graph and compare the cells that they find.

    Returns:
        Case name -> the counts ``cells`` and ``unmatched``, and the deviations of `TOLERANCES`.

    Raises:
        ParityError: a deviation is beyond tolerance; the message names case and figure.
    """
    session = open_graph(graph)
    names = [tensor.name for tensor in step.outputs]
    figures = {}
    for case in cases:
        with torch.inference_mode():
            outputs = [output.numpy() for output in module(*case.inputs)]
        feeds = {
            tensor.name: value.numpy()
            for tensor, value in zip(step.inputs, case.inputs, strict=True)
        }
        renamed = [NAMES.get(name, name) for name in names]
        expected = dict(zip(renamed, outputs, strict=True))
        answer = dict(zip(renamed, session.run(names, feeds), strict=True))
        figures[case.name] = _compare(step.name, case.name, expected, answer)
    return figures


def _compare(step: str, case: str, expected: Arrays, answer: Arrays) -> dict[str, float]:
    for name, array in expected.items():
        if (array.shape[1:], array.dtype) != (answer[name].shape[1:], answer[name].dtype):
            raise ParityError(
                f"{step}, case '{case}', output '{name}': ONNX Runtime answers "
                f"{answer[name].dtype} {answer[name].shape}, torch {array.dtype} {array.shape}."
            )
    ours, theirs, _ = pair_cells(
        answer["boxes"], expected["boxes"], answer["detected_ids"], expected["detected_ids"]
    )
    counts = [len(side["boxes"]) for side in (answer, expected)]
    figures = {"cells": float(counts[1]), "unmatched": float(sum(counts) - 2 * len(ours))}
    rules = {"unmatched": max(2.0, round(UNMATCHED * sum(counts)))}
    if "cells_found" in expected:
        found = [int(side["cells_found"][0]) for side in (answer, expected)]
        figures["cells_found"] = float(abs(found[0] - found[1]))
        rules["cells_found"] = max(1.0, round(UNMATCHED * found[1]))
    for name in FLAGS:
        if name in expected:
            differ = answer[name][ours] != expected[name][theirs]
            figures[name] = float(np.count_nonzero(differ))
            rules[name] = max(2.0, round(UNMATCHED * len(ours)))
    for name, tolerance in TOLERANCES.items():
        difference = np.abs(
            answer[name][ours].astype(np.float64) - expected[name][theirs].astype(np.float64)
        )
        summary = np.mean if name == "masks" else np.max
        # A value that is not finite must not pass as a small one.
        figures[name] = float(np.nan_to_num(summary(difference), nan=np.inf)) if len(ours) else 0.0
        rules[name] = tolerance
    for name, most in rules.items():
        if figures[name] > most:
            raise ParityError(
                f"{step}, case '{case}', '{name}': ONNX Runtime deviates from torch by "
                f"{figures[name]:.3g}; at most {most:g} is allowed, {counts[1]} cells were found."
            )
    return figures
