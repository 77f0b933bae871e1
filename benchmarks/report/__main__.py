"""Writes one page of all results: reached bounds, plots, tables, machines and commands.

\b
    python -m benchmarks.report

This reads the benchmarks' JSON files in `benchmarks/results/` and writes two pages there.
`report.html` needs no other file and fetches nothing. `report.md` is the same without plots. If a
result is missing, the page names the command that measures it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from benchmarks.bounds import TARGETS, Results, judge
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.results import fingerprint
from benchmarks.report.page import Page, Section, html_page, markdown_page
from benchmarks.report.sections import ENTRIES, ReportEntry

RESULTS = Path("benchmarks/results")


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results in ``folder``: name of the file without ``.json`` -> content.

    Raises:
        click.ClickException: a file holds no JSON object.
    """
    results = {}
    for file in sorted(folder.glob("*.json")):
        try:
            results[file.stem] = json.loads(file.read_text())
        except ValueError as error:
            raise click.ClickException(f"{file} is not a benchmark's result: {error}.") from error
        if not isinstance(results[file.stem], dict):
            raise click.ClickException(f"{file} is not a benchmark's result: it holds no object.")
    return results


def build(results: Results, written: datetime, machine: Mapping[str, str]) -> Page:
    """Compose the page; ``machine`` is the fingerprint of the machine that writes it.

    Raises:
        click.ClickException: a result lacks figures that its table shows.
    """
    verdicts = judge(TARGETS, results)
    reached = sum(verdict.reached is True for verdict in verdicts)
    measured = sum(verdict.reached is not None for verdict in verdicts)
    missing = len(verdicts) - measured
    bounds = Section(
        "Bounds",
        f"{reached} of {measured} measured bounds are reached"
        + (f"; not measured yet: {missing}. " if missing else ". ")
        + "Each compares two measurements of one run on one machine, "
        "and the worst measurement of all that it is about decides.",
        verdicts=verdicts,
    )
    machines = Section(
        "Machines",
        "Where each result was measured. Only ratios of one run may be compared between machines.",
        tables=machines_table(results),
    )
    return Page(
        "What serving costs",
        "Latency, throughput, growth and memory of every pipeline, against the same graphs "
        "without a server and against what people use instead.",
        {
            "written": f"{written:%Y-%m-%d %H:%M} UTC",
            "source": machine["commit"],
            "written on": f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}",
        },
        [bounds, *(_section(shown, results.get(shown.name)) for shown in ENTRIES), machines],
    )


def _section(shown: ReportEntry, result: Mapping[str, Any] | None) -> Section:
    if result is None:
        return Section(shown.title, shown.text, command=shown.command)
    try:
        plots, tables = shown.plots(result), shown.table(result)
    except (KeyError, TypeError) as error:
        raise click.ClickException(
            f"{shown.name}.json was written by another version, {type(error).__name__}: {error}. "
            f"Make it again with: {shown.command}"
        ) from error
    command = str(result.get("command", shown.command))
    return Section(shown.title, shown.text, (), plots, tables, command)


def machines_table(results: Results) -> str:
    """Return a row per result: its machine, its packages and the commit of its source."""
    machines = {name: r["machine"] for name, r in results.items() if "machine" in r}
    columns = list(dict.fromkeys(key for machine in machines.values() for key in machine))
    rows = [
        [f"`{name}`", *(str(machine.get(column, "")) for column in columns)]
        for name, machine in machines.items()
    ]
    return markdown_table(["result", *columns], rows) + "\n"


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--results",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=RESULTS,
    help="Folder of the JSON files.",
)
@click.option("--html", type=click.Path(path_type=Path), default=RESULTS / "report.html")
@click.option("--markdown", type=click.Path(path_type=Path), default=RESULTS / "report.md")
def main(results: Path, html: Path, markdown: Path) -> None:
    """Write both pages; the module's docstring is the help."""
    page = build(read_results(results), datetime.now(timezone.utc), fingerprint())
    for file, write in ((html, html_page), (markdown, markdown_page)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(write(page))
        click.echo(file)


if __name__ == "__main__":
    main()
