"""Finds the best variant of the model repository for this machine by measurement.

\b
    python -m benchmarks.variants --json variants.json
    python -m benchmarks.variants --data yolo_resnet=data/bccd@benchmarks/bccd/test.txt \\
        --data glioma_unet=data/t98g@benchmarks/t98g/test.txt \\
        --data nuclei_unet=data/BreCaHAD@Case_12 --json variants.json

Every variant of `python -m server --variant` for a single client is served beside the default.
`benchmarks.throughput` measures the variant for many clients. A rendered frame is sent to all of
them, interleaved, so that other load affects all alike. Annotated frames check that the figures of
a variant are not worse than the default's by more than its budget: mean IoU and accuracy by 0.005,
Dice by 0.002. If the machine, the installation or the export does not allow a variant, it is listed
with the reason. The winner keeps every budget and has the largest mean speedup over all pipelines.
A pipeline that the variant does not change counts as 1.

--data gives the annotated frames of a pipeline: `DIR` or `DIR@FILE` as in training, and for
`nuclei_unet` a folder as BreCaHAD's authors lay it out, or `DIR@CASE`. Without it, frames are
rendered, and a semantic pipeline is compared with the default's own masks. Rendered frames prove
little about real ones.

Where every pipeline has annotated frames, the winner is kept in the model repository, and
`python -m server` takes it by itself on this machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
from rich.progress import track

from benchmarks.harness.load import ask, load_frame
from benchmarks.harness.options import (
    json_option,
    markdown_option,
    repository_option,
    score_threshold_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import time_interleaved
from benchmarks.variants.proofs import Proof, Thresholds, figures_of, read_proof
from benchmarks.variants.result import (
    Refusal,
    VariantRow,
    VariantsResult,
    fastest,
    variants_page,
)
from cytoserve import Client
from cytoserve.contract import OVERLAP_THRESHOLD, PIPELINES
from export.parity.accuracy_budget import beyond_budget, drops
from server.errors import ServerError, VariantError
from server.fastest_variant import MeasuredChoice, manifest_digests, processor_digest
from server.repository import is_configured, models_of_variant, survey
from server.variants import DEFAULT, VARIANTS, check_machine, processor_instructions

LONE = {name: variant for name, variant in VARIANTS.items() if not variant.for_many}
"""Variants that answer a single client faster, which are measured here."""

TIMEOUT = 300.0
"""Maximum seconds per frame."""

FIGURES = ("iou", "accuracy", "recall", "precision", "dice")
"""Figures that a variant may lower."""


# -- What can be served ---------------------------------------------------------------------------
def find_candidates(
    repository: Path, pipelines: Sequence[str]
) -> tuple[dict[str, list[str]], list[Refusal]]:
    """Return variant -> pipelines that it changes, and the variants that cannot be served."""
    candidates: dict[str, list[str]] = {}
    refusals = []
    for name, variant in LONE.items():
        try:
            check_machine(variant, processor_instructions())
        except ServerError as error:
            refusals.append(Refusal(variant=name, pipeline="all", reason=str(error)))
            continue
        for export in survey(repository, pipelines, name):
            if not is_configured(repository, export.pipeline, name):
                continue
            if export.missing:
                reason = f"{', '.join(export.missing)} missing; make it with: {export.command}"
                refusals.append(Refusal(variant=name, pipeline=export.pipeline.name, reason=reason))
            else:
                candidates.setdefault(name, []).append(export.pipeline.name)
    return candidates, refusals


def exported_pipelines(repository: Path, wanted: Iterable[str]) -> list[str]:
    """Return the wanted pipelines that are exported and need no prompts.

    Raises:
        click.UsageError: there is none.
    """
    names = [name for name in wanted if not PIPELINES[name].is_prompted]
    found = [export.pipeline.name for export in survey(repository, names) if not export.missing]
    if not found:
        raise click.UsageError(
            f"none of {', '.join(names)} is exported to {repository}; see python -m export --help"
        )
    return found


# -- Measuring ------------------------------------------------------------------------------------
def measure(
    repository: Path,
    pipelines: Sequence[str],
    proofs: Mapping[str, Callable[[Client], Proof]],
    *,
    side: int,
    cells: int,
    repeats: int,
    thresholds: Thresholds,
) -> tuple[list[VariantRow], list[Refusal]]:
    """Serve every variant, time all of them interleaved, and prove their figures."""
    candidates, refusals = find_candidates(repository, pipelines)
    rows: list[VariantRow] = []
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, served in {DEFAULT: list(pipelines), **candidates}.items():
            try:
                server = stack.enter_context(serve_without_health_checks(repository, served, name))
            except ServerError as error:
                if name == DEFAULT:
                    raise
                refusals.append(Refusal(variant=name, pipeline="all", reason=str(error)))
                continue
            clients[name] = stack.enter_context(Client(server.url, timeout=TIMEOUT))
        for pipeline in track(pipelines, "measuring", transient=True):
            own = {n: c for n, c in clients.items() if pipeline in candidates.get(n, [pipeline])}
            if len(own) == 1:
                continue
            frame = load_frame(side, side, cells)
            taken = time_interleaved(
                {n: partial(ask, c, pipeline, frame) for n, c in own.items()}, repeats
            )
            seconds = {name: statistics.median(times) for name, times in taken.items()}
            proof = proofs[pipeline](clients[DEFAULT])
            figures = {
                name: figures_of(client, pipeline, proof, clients[DEFAULT], thresholds)
                for name, client in own.items()
            }
            for name in list(own)[1:]:
                lost = drops(figures[DEFAULT], figures[name])
                changed = models_of_variant(repository, [PIPELINES[pipeline]], name)
                rows.append(
                    VariantRow(
                        variant=name,
                        pipeline=pipeline,
                        models=", ".join(changed),
                        seconds=seconds[name],
                        default_seconds=seconds[DEFAULT],
                        speedup=seconds[DEFAULT] / seconds[name],
                        **{f"{figure}_drop": lost.get(figure) for figure in FIGURES},
                        proven_on=proof.source,
                        frames=len(proof.frames),
                        beyond_budget="; ".join(beyond_budget(lost)),
                    )
                )
    return rows, refusals


# -- The command ----------------------------------------------------------------------------------
def data_of_pipelines(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> dict[str, list[str]]:
    """Parse the values of ``--data`` into pipeline -> data sets."""
    found: dict[str, list[str]] = {}
    for text in value:
        pipeline, given, data = text.partition("=")
        if pipeline not in PIPELINES or not given:
            raise click.BadParameter(
                f"{text!r} is not PIPELINE=DIR; pipelines are {', '.join(PIPELINES)}"
            )
        found.setdefault(pipeline, []).append(data)
    return found


@click.command(help=__doc__, context_settings={"show_default": True})
@repository_option
@click.option(
    "--pipeline",
    "pipelines",
    type=click.Choice(list(PIPELINES)),
    multiple=True,
    help="Pipeline to measure; may be given several times.  [default: all that are exported and "
    "that a variant serves in another way]",
    show_default=False,
)
@click.option("--data", multiple=True, callback=data_of_pipelines, help="PIPELINE=DIR, see above.")
@click.option("--side", type=click.IntRange(64), default=1024, help="Side of the timed frame.")
@click.option("--cells", type=click.IntRange(0), default=15, help="Cells of the timed frame.")
@click.option(
    "--repeats", type=click.IntRange(1), default=5, help="Timed requests of each variant."
)
@score_threshold_option
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), default=OVERLAP_THRESHOLD)
@json_option
@markdown_option
def main(
    model_repository: Path,
    pipelines: tuple[str, ...],
    data: Mapping[str, Sequence[str]],
    side: int,
    cells: int,
    repeats: int,
    score_threshold: float | None,
    overlap_threshold: float,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure and choose; the module's docstring is the help."""
    try:
        exported = exported_pipelines(model_repository, pipelines or PIPELINES)
        changed = [name for name in exported if is_changed(model_repository, name)]
        rows, refusals = measure(
            model_repository,
            changed,
            {name: partial(read_proof, name, data.get(name, ())) for name in changed},
            side=side,
            cells=cells,
            repeats=repeats,
            thresholds=Thresholds(score_threshold, overlap_threshold),
        )
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    result = VariantsResult(
        **made_by("variants"),
        model_repository=str(model_repository),
        pipelines=tuple(changed),
        side=side,
        cells=cells,
        repeats=repeats,
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        rows=tuple(rows),
        refusals=tuple(refusals),
    )
    write_result(result, variants_page(result), json_file, markdown)
    if set(data) >= set(changed):
        keep_choice(result, model_repository)
    else:
        click.echo("The choice is not kept: rendered frames prove little. Give --data.", err=True)


def keep_choice(result: VariantsResult, repository: Path) -> None:
    """Leave the winner in the repository, so that servers of this machine take it."""
    variant, speedup = fastest(result)
    models = {
        name for row in result.rows if row.variant == variant for name in row.models.split(", ")
    }
    MeasuredChoice(
        variant=variant,
        speedup=speedup,
        processor=processor_digest(),
        manifests=manifest_digests(repository, sorted(models)),
        date=result.machine["date"],
    ).write(repository)


def is_changed(repository: Path, pipeline: str) -> bool:
    """Return whether any variant changes a pipeline that this machine allows."""
    return any(
        is_configured(repository, PIPELINES[pipeline], name) and is_allowed(name) for name in LONE
    )


def is_allowed(name: str) -> bool:
    """Return whether this machine can serve a variant."""
    try:
        check_machine(LONE[name], processor_instructions())
    except VariantError:
        return False
    return True


if __name__ == "__main__":
    main()
