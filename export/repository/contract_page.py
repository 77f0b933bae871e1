"""The page ``docs/contract.md`` on every pipeline's tensors, for callers in any language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cytoserve.contract import (
    CARD_INPUT,
    CARD_OUTPUT,
    MAX_FRAME_BYTES,
    MAX_SIDE,
    MAX_TILES,
    PIPELINES,
    STEPS,
    Pipeline,
    Tensor,
)
from export.repository.step_modules import STEP_MODULES

COMMAND = "python -m export contract-page"

INTRODUCTION = f"""\
<!-- Written by `{COMMAND}` from client/cytoserve/contract.py: change it there. -->

# The contract

A pipeline is a Triton ensemble. Ask it by the KServe v2 protocol over gRPC, in any language:
`tritonclient` does it in Python, Java and C++, and `client/examples/node` in JavaScript with gRPC
alone. The Python client `cytoserve` does the same, and checks what it sends and gets.

- Dims are listed as Triton lists them; -1 is variable. N counts cells, K classes.
- Coordinates are continuous frame pixels: pixel `i` spans `[i, i + 1)` and its centre is at
  `i + 0.5`. Boxes are `(x0, y0, x1, y1)`, with `x` along the width.
- A frame has at most {MAX_SIDE:,} pixels per side and {MAX_FRAME_BYTES // 2**20} MiB on the wire.
  One that needs more than {MAX_TILES} network tiles is refused: send it in parts, as the Python
  client does.
- Zero cells are an ordinary answer. Where `cells_found` is larger than N, `max_cells` cut the rest.
- Every input must be sent. The model card tells the threshold and the scale that a model was
  trained for; send these where the user gave none.
"""


def contract_page() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION, *map(_pipeline, PIPELINES.values()), _card(), _steps()]
    return "\n".join(parts)


def _pipeline(pipeline: Pipeline) -> str:
    pixels = ""
    if pipeline.max_pixels < MAX_SIDE * MAX_SIDE:
        pixels = f" At most {pipeline.max_pixels:,} pixels per request."
    lines = [
        f"## `{pipeline.name}`",
        "",
        f"{pipeline.summary[0].upper()}{pipeline.summary[1:]} ({pipeline.study}).{pixels}",
        "",
        "Inputs:",
        "",
        *_tensors(pipeline.inputs),
        "",
        "Outputs:",
        "",
        *_tensors((*pipeline.outputs, *pipeline.on_request)),
        "",
        f"Steps: {', '.join(f'`{step}`' for step in pipeline.steps)}. "
        f"Model card: `{pipeline.card}`.",
    ]
    return "\n".join(lines) + "\n"


def _card() -> str:
    rows = _tensors((CARD_INPUT, CARD_OUTPUT))
    text = (
        "Every pipeline has a model beside it that tells what it is, with one input and one output:"
    )
    return "\n".join(["## Model cards", "", text, "", *rows]) + "\n"


def _steps() -> str:
    rows = [
        (
            f"`{step.name}`",
            step.summary,
            f"`{STEP_MODULES[step.name]}`" if step.name in STEP_MODULES else "",
            ", ".join(f"`{variant.name}`" for variant in step.variants),
        )
        for step in STEPS.values()
    ]
    lines = [
        "## Steps",
        "",
        "Steps are models inside the pipelines. They may change with any version; call pipelines.",
        "",
        *_table(("step", "what it does", "module of its graph", "variants"), rows),
    ]
    return "\n".join(lines) + "\n"


def _tensors(tensors: Iterable[Tensor]) -> Iterator[str]:
    rows = [
        (f"`{t.name}`", t.dtype, f"`[{', '.join(map(str, t.dims))}]`", t.meaning) for t in tensors
    ]
    return _table(("name", "dtype", "dims", "meaning"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"
