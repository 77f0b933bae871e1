"""Writes one page of all results: reached bounds, tables, machines and commands.

\b
    python -m benchmarks.report

This reads the benchmarks' JSON files in `benchmarks/results/` and writes `report.md` there. If a
result is missing, the page names the command that measures it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from benchmarks.approaches.result import REAL_FRAMES, ApproachesResult, approaches_page
from benchmarks.fields.result import BOUNDS as FIELDS
from benchmarks.fields.result import FieldsResult, fields_page
from benchmarks.general.result import (
    FineTuningResult,
    GeneralResult,
    fine_tuning_page,
    general_page,
)
from benchmarks.glioma import result as glioma
from benchmarks.harness.bounds import Bound, judge, verdicts_table
from benchmarks.harness.results import Result, fingerprint, markdown_table, read_result
from benchmarks.instances.result import InstancesResult, instances_page
from benchmarks.latency.result import BOUNDS as LATENCY
from benchmarks.latency.result import LatencyResult, latency_page
from benchmarks.nuclei import result as nuclei
from benchmarks.peers.result import BOUNDS as PEERS
from benchmarks.peers.result import PeersResult, peers_page
from benchmarks.published import S3_ENDINGS
from benchmarks.regression.result import RegressionResult, regression_page
from benchmarks.scaling.result import BOUNDS as SCALING
from benchmarks.scaling.result import ScalingResult, scaling_page
from benchmarks.throughput.result import BOUNDS as THROUGHPUT
from benchmarks.throughput.result import ThroughputResult, throughput_page
from benchmarks.variants.result import BOUNDS as VARIANTS
from benchmarks.variants.result import VariantsResult, variants_page

RESULTS = Path("benchmarks/results")

Kind = TypeVar("Kind", bound=Result)
Results = Mapping[str, Result]
"""Name of an entry -> its result."""


@dataclass(frozen=True)
class ReportEntry(Generic[Kind]):
    """A result in the report."""

    name: str
    """Name of its file without ``.json``."""
    kind: type[Kind]
    title: str
    text: str
    """Description of the measurement, as Markdown."""
    command: str
    """Command that makes it; the command that the result records takes precedence."""
    page: Callable[[Kind], str]
    """Function that returns its tables as Markdown."""
    bounds: Sequence[Bound[Kind]] = ()
    """Bounds that a quiet machine should reach."""


ENTRIES: tuple[ReportEntry[Any], ...] = (
    ReportEntry(
        "latency",
        LatencyResult,
        "Latency",
        "One client that asks alone: what the server adds to the graphs, where the time of a call "
        "goes, and how it grows with cells and pixels.",
        "python -m benchmarks.latency --json benchmarks/results/latency.json",
        latency_page,
        LATENCY,
    ),
    ReportEntry(
        "throughput",
        ThroughputResult,
        "Throughput",
        "Frames per second as more requests are sent at a time, against the most that the same "
        "graphs answer in one process, without a server, in their best layout of threads.",
        "python -m benchmarks.throughput --json benchmarks/results/throughput.json",
        throughput_page,
        THROUGHPUT,
    ),
    ReportEntry(
        "peers",
        PeersResult,
        "What people use instead",
        "The same weights and frames, served in other ways; the cells that each finds are compared "
        "before any time is taken.",
        "make peers && python -m benchmarks.peers --cells runs/general --targets runs/targets "
        "--classifier runs/classifier --json benchmarks/results/peers.json",
        peers_page,
        PEERS,
    ),
    ReportEntry(
        "scaling",
        ScalingResult,
        "Growth",
        "How time and memory grow with cells, pixels and pipelines.",
        "python -m benchmarks.scaling --json benchmarks/results/scaling.json",
        scaling_page,
        SCALING,
    ),
    ReportEntry(
        "variants",
        VariantsResult,
        "Faster variants",
        "The same networks in bfloat16 or 8-bit integers, where the processor has the "
        "instructions for it: how much faster, and what it costs in accuracy.",
        "python -m benchmarks.variants --json benchmarks/results/variants.json",
        variants_page,
        VARIANTS,
    ),
    ReportEntry(
        "fields",
        FieldsResult,
        "Size, place and scale of a frame",
        "The same cells in frames of other sizes, offsets and scales, and frames without cells.",
        "python -m benchmarks.fields --data data --json benchmarks/results/fields.json",
        fields_page,
        FIELDS,
    ),
    ReportEntry(
        "general",
        GeneralResult,
        "The shipped networks",
        "What they find in test images of every kind, and in frames without cells.",
        "python -m benchmarks.general --data data",
        general_page,
    ),
    ReportEntry(
        "fine-tuning",
        FineTuningResult,
        "Fine-tuning the shipped network",
        "The same training from the shipped network and from random weights.",
        "python -m benchmarks.general.fine_tuning --data data",
        fine_tuning_page,
    ),
    ReportEntry(
        "bccd",
        ApproachesResult,
        "Study S1 on blood cells",
        "Both approaches of the study on real images, and the same weights run as the study did.",
        "python -m benchmarks.bccd --bccd data/bccd --dsb2018 data/dsb2018",
        approaches_page,
        REAL_FRAMES,
    ),
    ReportEntry(
        "t98g-unet",
        glioma.GliomaResult,
        "Study S2 on glioma cells",
        "A U-Net on whole frames of T98G cells.",
        "python -m benchmarks.t98g --t98g data/t98g",
        glioma.served_page,
        glioma.BOUNDS,
    ),
    *(
        ReportEntry(
            f"brecahad{ending}",
            nuclei.NucleiResult,
            f"Study S3 on stained tissue, {network}",
            f"Nuclei of BreCaHAD's frames: cleaned, tiled, segmented by {network} and stitched.",
            "python -m benchmarks.brecahad --brecahad data/BreCaHAD",
            nuclei.served_page,
            nuclei.bounds_of(network),
        )
        for network, ending in S3_ENDINGS.items()
    ),
    ReportEntry(
        "t98g-instances",
        InstancesResult,
        "Study S4 on glioma cells",
        "Mask R-CNN, and its boxes as prompts for SAM.",
        "python -m benchmarks.t98g_instances --data data/t98g",
        instances_page,
    ),
    ReportEntry(
        "regression",
        RegressionResult,
        "Regression check",
        "What every change is held to, with bounds that a busy machine keeps.",
        "python -m benchmarks.regression --json benchmarks/results/regression.json",
        regression_page,
    ),
)
"""Entries in the order of the page."""


def read_results(folder: Path) -> dict[str, Result]:
    """Read the results of `ENTRIES` that ``folder`` has.

    Raises:
        click.ClickException: a file holds no such result, or another version's.
    """
    results = {}
    for entry in ENTRIES:
        file = folder / f"{entry.name}.json"
        if file.is_file():
            try:
                results[entry.name] = read_result(file, entry.kind)
            except ValueError as error:
                raise click.ClickException(
                    f"{file} is no result of this version: {error}\n"
                    f"Make it again with: {entry.command}"
                ) from error
    return results


def build(results: Results, written: datetime, machine: Mapping[str, str]) -> str:
    """Compose the page as Markdown; ``machine`` is that of the machine that writes it."""
    verdicts = [
        verdict for entry in ENTRIES for verdict in judge(entry.bounds, results.get(entry.name))
    ]
    reached = sum(verdict.reached is True for verdict in verdicts)
    measured = sum(verdict.reached is not None for verdict in verdicts)
    missing = len(verdicts) - measured
    parts = [
        "# What serving costs",
        "Latency, throughput, growth and memory of every pipeline, against the same graphs "
        "without a server and against what people use instead.",
        f"- written: {written:%Y-%m-%d %H:%M} UTC\n- source: {machine['commit']}\n- written on: "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}",
        "## Bounds",
        f"{reached} of {measured} measured bounds are reached"
        + (f"; not measured yet: {missing}. " if missing else ". ")
        + "Each compares two measurements of one run on one machine, "
        "and the worst measurement of all that it is about decides.",
        verdicts_table(verdicts),
        *(part for entry in ENTRIES for part in _section(entry, results.get(entry.name))),
        "## Machines",
        "Where each result was measured. Only ratios of one run may be compared between machines.",
        machines_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def _section(entry: ReportEntry[Any], result: Result | None) -> Iterator[str]:
    yield f"## {entry.title}"
    yield entry.text
    if result is None:
        yield f"Not measured yet. This makes it: `{entry.command}`."
        return
    # Headings of its own page are lowered to the third level.
    yield re.sub(r"^#{1,3} ", "### ", entry.page(result), flags=re.MULTILINE).strip()
    yield f"Made by `{result.command}`."


def machines_table(results: Results) -> str:
    """Return a row per result: its machine, its packages and the commit of its source."""
    columns = list(dict.fromkeys(key for result in results.values() for key in result.machine))
    rows = [
        [f"`{name}`", *(result.machine.get(column, "") for column in columns)]
        for name, result in results.items()
    ]
    return markdown_table(["result", *columns], rows)


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--results",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=RESULTS,
    help="Folder of the JSON files.",
)
@click.option("--markdown", type=click.Path(path_type=Path), default=RESULTS / "report.md")
def main(results: Path, markdown: Path) -> None:
    """Write the page; the module's docstring is the help."""
    page = build(read_results(results), datetime.now(timezone.utc), fingerprint())
    markdown.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text(page)
    click.echo(markdown)


if __name__ == "__main__":
    main()
