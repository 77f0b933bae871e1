"""Count the cells while a time lapse runs. The acquisition never waits for an answer.

python client/examples/microscope/count_while_it_runs.py --picture nuclei.png
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
import useq
from drawing import draw_curve
from simulated_microscope import SIDE_PX, grow, microscope

from cytoserve.acquisition import FrameAnalyzer, FrameResult
from cytoserve.acquisition.with_pymmcore_plus import MDAHandler


@click.command(help=__doc__)
@click.option("--picture", type=Path, required=True, help="What lies under the microscope.")
@click.option("--url", default="localhost:8001", show_default=True)
@click.option("--frames", default=10, show_default=True)
@click.option("--interval", default=0.5, show_default=True, help="Seconds between two frames.")
@click.option("--out", type=Path, default=Path("counts.png"), show_default=True)
def main(picture: Path, url: str, frames: int, interval: float, out: Path) -> None:
    """Acquire, count and draw."""
    core = microscope(*grow(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE), frames))
    counts: dict[int, int] = {}

    def note(result: FrameResult) -> None:
        time_point = result.metadata.event.index["t"]
        if result.cells is not None:
            counts[time_point] = len(result.cells)
            click.echo(f"t={time_point}: {len(result.cells)} cells after {result.total_s:.2f} s")
        else:
            click.echo(f"t={time_point}: {result.status}: {result.reason}")

    plan = useq.MDASequence(time_plan={"interval": interval, "loops": frames})
    with FrameAnalyzer(url, "yolo", callback=note) as analyzer:
        analyzer.warm_up((SIDE_PX, SIDE_PX), np.uint8)
        core.mda.run(plan, output=[MDAHandler(analyzer)])
    click.echo(analyzer.statistics())
    draw_curve([counts[t] for t in sorted(counts)], "cells by time point", out)


if __name__ == "__main__":
    main()
