"""Gathers the figures of study S2's protocol: every model of its tables over all splits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.glioma.runs import (
    OWN,
    Average,
    Protocol,
    Run,
    average,
    run_scores,
    zero_shot_scores,
)
from benchmarks.harness.results import fingerprint
from benchmarks.published import GliomaModel, GliomaTable, TestSizes
from training.checkpoint import load_checkpoint
from training.unet.dice import NATIVE, parse_resolution
from training.unet.network import ARCHITECTURE


def measure(
    protocol: Protocol,
    tables: Sequence[GliomaTable],
    *,
    seeds: Sequence[int],
    curve: Sequence[int],
    zero_shot: Sequence[Path],
    zero_shot_tests: Sequence[TestSizes],
) -> dict[str, Any]:
    """Train and test what is not cached yet, and gather the figures of every table.

    Args:
        protocol: data, settings and cached results.
        tables: models to train, and the tests of each.
        seeds: the K seeds of the splits.
        curve: numbers of training images of the learning curve.
        zero_shot: checkpoint folders to test without training.
        zero_shot_tests: tests of those checkpoints.

    Raises:
        ValueError: data, weights or cached results do not fit, see `benchmarks.glioma.runs`.
    """
    models = _models(tables)
    able = [model for model in models if protocol.can_train(model)]
    _train_and_test(protocol, {m: models[m] for m in able}, seeds, curve)
    resolutions = {name for table in tables for test in table.tests for name in test}
    resolutions |= {model.resolution for model in able} | {n for t in zero_shot_tests for n in t}
    return {
        "tables": [_table(protocol, table, seeds) for table in tables],
        "learning_curve": _learning_curve(protocol, tables, seeds, curve),
        "zero_shot": {
            "title": "Zero-shot: trained elsewhere, tested here",
            "tests": [_test_text(test) for test in zero_shot_tests],
            "rows": [_zero_shot(protocol, folder, zero_shot_tests, seeds) for folder in zero_shot],
        },
        "left_out": [str(model) for model in models if model not in able],
        "splits": len(seeds),
        "sizes": str(protocol.sizes),
        "frames": len(protocol.dataset.frames),
        "epochs": protocol.settings.epochs,
        "resolutions": {
            name: _size_text(protocol.resolution(name)) for name in sorted(resolutions - {OWN})
        },
        "machine": fingerprint(),
    }


def _models(tables: Sequence[GliomaTable]) -> dict[GliomaModel, list[TestSizes]]:
    """Return every model of the tables once, with all of its tests."""
    models: dict[GliomaModel, dict[TestSizes, None]] = {}
    for table in tables:
        for model in table.figures:
            models.setdefault(model, {}).update(dict.fromkeys(table.tests))
    return {model: list(tests) for model, tests in models.items()}


def _train_and_test(
    protocol: Protocol,
    models: dict[GliomaModel, list[TestSizes]],
    seeds: Sequence[int],
    curve: Sequence[int],
) -> None:
    """Do all runs, split by split, so that the first tables can be printed early."""
    counts = sorted({*curve, protocol.sizes.training}, reverse=True)
    plan = list(itertools.product(seeds, models.items(), counts))
    for number, (seed, (model, tests), count) in enumerate(plan, start=1):

        def say(text: str, number: int = number) -> None:
            click.echo(f"[{number}/{len(plan)}] {text}", err=True)

        run_scores(protocol, Run(model, count, seed), tests, say)


def _table(protocol: Protocol, table: GliomaTable, seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "title": table.title,
        "tests": [_test_text(test) for test in table.tests],
        "rows": [_row(protocol, m, table.tests, seeds, f) for m, f in table.figures.items()],
    }


def _row(
    protocol: Protocol,
    model: GliomaModel,
    tests: Sequence[TestSizes],
    seeds: Sequence[int],
    study: Sequence[str],
) -> dict[str, Any]:
    scores = _averages(protocol, model, protocol.sizes.training, tests, seeds)
    return {
        **asdict(model),
        "network": model.network,
        "training": model.training,
        "scores": [asdict(score) for score in scores] or [None] * len(tests),
        "study": list(study) or None,
    }


def _averages(
    protocol: Protocol,
    model: GliomaModel,
    images: int,
    tests: Sequence[TestSizes],
    seeds: Sequence[int],
) -> list[Average]:
    """Return a model's average per test from cached results; empty if it cannot be trained."""
    if not protocol.can_train(model):
        return []
    runs = [run_scores(protocol, Run(model, images, seed), tests, _say) for seed in seeds]
    return [average([run[test] for run in runs]) for test in tests]


def _learning_curve(
    protocol: Protocol,
    tables: Sequence[GliomaTable],
    seeds: Sequence[int],
    counts: Sequence[int],
) -> list[dict[str, Any]]:
    """Return each model's DiceLoss^AV by number of training images, in its table's first test."""
    return [
        {
            "model": str(model),
            "test": _test_text(table.tests[0]),
            "images": count,
            "loss": asdict(score.as_loss()),
        }
        for table in tables
        for model in table.figures
        for count in counts
        for score in _averages(protocol, model, count, table.tests[:1], seeds)
    ]


def _zero_shot(
    protocol: Protocol, checkpoint: Path, tests: Sequence[TestSizes], seeds: Sequence[int]
) -> dict[str, Any]:
    encoder = load_checkpoint(checkpoint, ARCHITECTURE)[1].settings["encoder"]
    model = GliomaModel(encoder, str(checkpoint), "resize", NATIVE)
    scores = [average(zero_shot_scores(protocol, checkpoint, test, seeds)) for test in tests]
    return {
        **asdict(model),
        "network": model.network,
        "training": "none",
        "scores": [asdict(score) for score in scores],
        "study": None,
    }


def _test_text(test: TestSizes) -> str:
    return ", ".join(test)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _size_text(resolution: str) -> str:
    size = parse_resolution(resolution)
    return f"{size[1]}x{size[0]} px" if size else "as the images are"
