"""The variant that a server takes by itself, and the reason that it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cytoserve.contract import PIPELINES
from cytoserve.gpu import has_gpu
from cytoserve.model_config import MANIFEST_FILE
from server.embedded import EmbeddedServer
from server.fastest_variant import (
    CHOICE_FILE,
    MeasuredChoice,
    choose,
    manifest_digests,
    processor_digest,
)

VARIANT = "throughput"
"""A variant that every processor can serve."""

YOLO = [PIPELINES["yolo"]]


@pytest.fixture
def repository(own_repository: Path) -> Path:
    """A repository whose model `yolo_cells` has a variant and a manifest."""
    model = own_repository / "yolo_cells"
    (model / "configs").mkdir()
    default = (model / "config.pbtxt").read_text()
    (model / f"configs/{VARIANT}.pbtxt").write_text(f"{default}\ninstance_group {{ count: 1 }}")
    (model / "1" / MANIFEST_FILE).write_text("{}")
    return own_repository


def measured(repository: Path, variant: str = VARIANT) -> MeasuredChoice:
    return MeasuredChoice(
        variant=variant,
        speedup=1.591,
        processor=processor_digest(),
        manifests=manifest_digests(repository, ["yolo_cells"]),
        date="2026-12-01",
    )


def export_anew(repository: Path) -> None:
    (repository / "yolo_cells/2").mkdir()
    for file in (repository / "yolo_cells/1").iterdir():
        (repository / "yolo_cells/2" / file.name).write_bytes(file.read_bytes())
    (repository / "yolo_cells/2" / MANIFEST_FILE).write_text('{"weights": "new"}')


def remove_configuration(repository: Path) -> None:
    (repository / f"yolo_cells/configs/{VARIANT}.pbtxt").unlink()


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "measured": (
        lambda repository: measured(repository).write(repository),
        VARIANT,
        "1.59 times as fast as the default on 2026-12-01, within its accuracy",
    ),
    "never measured": (lambda repository: None, "default", "python -m benchmarks.variants"),
    "the default won": (
        lambda repository: measured(repository, "default").write(repository),
        "default",
        "it was the fastest on 2026-12-01",
    ),
    "on another processor": (
        lambda repository: replace(measured(repository), processor="x").write(repository),
        "default",
        "another processor. Measure here: python -m benchmarks.variants",
    ),
    "exported anew since": (
        lambda repository: (measured(repository).write(repository), export_anew(repository)),
        "default",
        f"{VARIANT} was not proven with the present yolo_cells. Measure again",
    ),
    "no longer exported": (
        lambda repository: (
            measured(repository).write(repository),
            remove_configuration(repository),
        ),
        "default",
        f"cannot be served now. What it lacks: python -m server --variant {VARIANT}",
    ),
    "a name of another release": (
        lambda repository: measured(repository, "fp8").write(repository),
        "default",
        "fp8 was the fastest on 2026-12-01, but cannot be served now",
    ),
    "half a file": (
        lambda repository: (repository / CHOICE_FILE).write_text('{"variant"'),
        "default",
        "cannot be read",
    ),
    "other fields": (
        lambda repository: (repository / CHOICE_FILE).write_text('{"name": "int8"}'),
        "default",
        "cannot be read",
    ),
}


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("case", CASES)
def test_choice(repository: Path, case: str) -> None:
    prepare, variant, reason = CASES[case]
    prepare(repository)
    chosen, told = choose(repository, YOLO)
    assert chosen == variant
    assert reason in told


def test_the_server_tells_its_choice_and_default_pins(repository: Path) -> None:
    measured(repository).write(repository)
    with EmbeddedServer(repository, ["yolo"]) as server:
        assert "Variant" not in server.output
    own_choice = EmbeddedServer(repository, ["yolo"])
    own_choice.command.remove("--variant=default")
    with own_choice as server:
        assert f"Variant {VARIANT}: 1.59 times as fast" in server.output
        assert f"Variant {VARIANT} of yolo_cells" in server.output
