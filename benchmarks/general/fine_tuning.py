"""Measures what it gains to fine-tune the shipped network, on a few blood smears.

\b
    python -m benchmarks.general.fine_tuning --data data --minutes 10

The same images are trained on for the same time, from the shipped network and from random weights,
by `python -m training.start`. Both are served and asked for the cells of other images. The
figures are written to `benchmarks/results/fine-tuning.json` and `fine-tuning.md`.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.general.measure import CELLS, TIMEOUT, without_edge
from benchmarks.general.result import FineTuningResult, FineTuningRow, fine_tuning_page
from benchmarks.harness.results import made_by, write_result
from cytoserve import Client
from server.embedded import EmbeddedServer
from training.checkpoint import RANDOM
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import match_cells, quality
from training.run.command_line import read_data
from training.run.stages import RECORD, Stages, begin_afresh, resume_command
from training.yolo.settings import GENERAL

RESULTS = Path("benchmarks/results")
TARGET, TEST = Path("benchmarks/bccd/target.txt"), Path("benchmarks/bccd/test.txt")
INITS = (GENERAL, RANDOM)


def measure(init: str, repository: Path, test: AnnotatedDataset) -> FineTuningRow:
    """Serve a network, ask it for the cells of all test images, and match them."""
    matched, inside = [], []
    with EmbeddedServer(repository) as server, Client(server.url, timeout=TIMEOUT) as client:
        for frame in test.frames:
            found = client.segment(frame.read(), CELLS)
            matched.append(match_cells(found, frame.cells))
            inside.append(without_edge(matched[-1], found, frame))
    figures = quality(matched)
    return FineTuningRow(
        init=init,
        annotated=sum(match.annotated for match in matched),
        found=sum(match.found for match in matched),
        recall=figures.recall,
        precision=figures.precision,
        f1=figures.f1,
        f1_inside=quality(inside).f1,
        accuracy=figures.accuracy,
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/fine-tuning"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
def main(data: Path, minutes: float, out: Path, results: Path, resume: bool) -> None:
    """Train both, and measure; the module's docstring is the help."""
    if not resume:
        begin_afresh(out)
    stages = Stages(resume_command("benchmarks.general.fine_tuning"), out)
    for init in INITS:
        stages.run(
            f"Training from weights: {init}",
            *("python", "-m", "training.start", "--data", f"{data}/bccd@{TARGET}"),
            *("--minutes", f"{minutes:g}", "--init", init, "--out", out / init),
            resume=(out / init / RECORD).is_file(),
        )
    test, _ = read_data([f"{data}/bccd@{TEST}"], one_class=False)
    result = FineTuningResult(
        **made_by("general.fine_tuning"),
        minutes=minutes,
        trained_on=len(TARGET.read_text().split()),
        images=len(test.frames),
        rows=tuple(measure(init, out / init / "model_repository", test) for init in INITS),
    )
    file = results / "fine-tuning.json"
    write_result(result, fine_tuning_page(result), file, file.with_suffix(".md"))


if __name__ == "__main__":
    main()
