"""The choice of a variant: what follows from figures, and what cannot be served here."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.variants.__main__ import LONE, find_candidates, is_allowed, is_changed, main
from benchmarks.variants.result import (
    Refusal,
    VariantRow,
    VariantsResult,
    mean_speedups,
    variants_page,
)


def row(variant: str, pipeline: str, speedup: float, beyond: str = "") -> VariantRow:
    return VariantRow(
        variant=variant,
        pipeline=pipeline,
        models="network",
        seconds=1 / speedup,
        default_seconds=1.0,
        speedup=speedup,
        iou_drop=0.001,
        accuracy_drop=0.0,
        recall_drop=0.0,
        precision_drop=0.0,
        dice_drop=None,
        proven_on="data/bccd",
        frames=14,
        beyond_budget=beyond,
    )


def result(*rows: VariantRow) -> VariantsResult:
    return VariantsResult(
        benchmark="variants",
        command="",
        machine={"cores": "2"},
        model_repository="model_repository",
        pipelines=("yolo_resnet", "glioma_unet"),
        side=1024,
        cells=15,
        repeats=5,
        score_threshold=None,
        overlap_threshold=0.6,
        rows=rows,
        refusals=(Refusal(variant="openvino", pipeline="all", reason="Install it: make openvino"),),
    )


CASES = [
    pytest.param(
        [row("int8", "yolo_resnet", 2.25), row("openvino", "yolo_resnet", 1.5)],
        "`--variant int8`:** over all measured pipelines 1.50 times",
        id="a pipeline that is left as it is counts 1",
    ),
    pytest.param(
        [
            row("int8", "yolo_resnet", 2.0),
            row("openvino", "yolo_resnet", 1.6),
            row("openvino", "glioma_unet", 1.6),
        ],
        "`--variant openvino`:** over all measured pipelines 1.60 times",
        id="mean over pipelines",
    ),
    pytest.param(
        [row("int8", "yolo_resnet", 9.0, "iou drops by 0.1"), row("openvino", "yolo_resnet", 1.1)],
        "Serve with `--variant openvino`",
        id="beyond its budget",
    ),
    pytest.param([row("int8", "yolo_resnet", 0.8)], "`--variant default`", id="none is faster"),
]


@pytest.mark.parametrize(("rows", "choice"), CASES)
def test_choice(rows: list[VariantRow], choice: str) -> None:
    assert choice in variants_page(result(*rows))


def test_a_pipeline_with_another_winner_is_told() -> None:
    table = variants_page(
        result(
            row("int8", "yolo_resnet", 2.0),
            row("openvino", "yolo_resnet", 1.6),
            row("openvino", "glioma_unet", 1.6),
        )
    )
    assert "For `yolo_resnet` alone `--variant int8` is the fastest." in table
    assert "For `glioma_unet` alone" not in table


def test_mean_is_geometric() -> None:
    rows = [row("openvino", "yolo_resnet", 4.0), row("openvino", "glioma_unet", 1.0)]
    speedups = mean_speedups(rows, ["yolo_resnet", "glioma_unet"])
    assert speedups == {"default": 1.0, "openvino": pytest.approx(2.0)}


def test_table_has_refusals_and_the_command() -> None:
    table = variants_page(result(row("int8", "yolo_resnet", 2.0)))
    assert "Refused: openvino, all: Install it: make openvino" in table
    assert "python -m server --model-repository model_repository --variant int8" in table
    assert "| 0.0010 | 0.0000 |" in table


def test_a_machine_that_allows_none_gets_reasons_and_no_empty_table() -> None:
    table = variants_page(result())
    assert table.startswith("Refused: openvino, all: Install it: make openvino")
    assert "Serve with `--variant default`:** no other may run here." in table
    assert "| variant |" not in table


def test_what_is_not_exported_is_refused_with_the_command() -> None:
    source = Path("model_repository")
    assert is_changed(source, "yolo")
    # Only variants for a GPU change it.
    assert is_changed(source, "maskrcnn") == is_allowed("cuda")
    candidates, refusals = find_candidates(source, ["yolo", "maskrcnn"])
    assert not {p for name, served in candidates.items() for p in served if name != "cuda"} - {
        "yolo"
    }
    assert {refusal.variant for refusal in refusals} | candidates.keys() == LONE.keys()
    for refusal in refusals:
        # Of this machine the variant as a whole is refused, or else what is not exported.
        whole, missing = refusal.pipeline == "all", f"python -m export {refusal.variant}"
        assert whole or missing in refusal.reason or "python -m export yolo" in refusal.reason


@pytest.mark.parametrize("text", ["data/bccd", "unet=data/t98g"])
def test_data_names_its_pipeline(text: str, tmp_path: Path) -> None:
    command = ["--data", text, "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert f"'{text}' is not PIPELINE=DIR" in done.output
