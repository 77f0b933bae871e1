"""Keep a live table of all cells of a scan, with their places on the stage.

python client/examples/microscope/keep_a_table.py --picture nuclei.png --table cells.csv
"""

from __future__ import annotations

import csv
from pathlib import Path

import click
import cv2
import numpy as np
import useq
from drawing import draw_map
from rich.console import Console
from rich.live import Live
from rich.table import Table
from simulated_microscope import SIDE_PX, microscope

from cytoserve.acquisition import FrameAnalyzer
from cytoserve.acquisition.with_pymmcore_plus import MDAHandler


@click.command(help=__doc__)
@click.option("--picture", type=Path, required=True, help="What lies under the microscope.")
@click.option("--url", default="localhost:8001", show_default=True)
@click.option("--table", type=Path, default=Path("cells.csv"), show_default=True)
@click.option("--out", type=Path, default=Path("cells.png"), show_default=True)
def main(picture: Path, url: str, table: Path, out: Path) -> None:
    """Scan nine fields, and show the table while it grows."""
    core = microscope(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE))
    step = SIDE_PX / 2
    fields = [(x * step, y * step) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    shown = Table("field", "x um", "y um", "cells", "median area px", "state")
    outlines: list[np.ndarray] = []
    with (
        table.open("w", newline="") as file,
        Live(shown, console=Console(width=100)),
        FrameAnalyzer(url, "yolo", when_busy="wait", queue_size=9) as analyzer,
    ):
        rows, results = csv.writer(file), analyzer.results("arrival")
        rows.writerow(["field", "x_um", "y_um", "score", "area_px"])
        core.mda.run(useq.MDASequence(stage_positions=fields), output=[MDAHandler(analyzer)])
        for _, result in zip(fields, results, strict=False):
            place, cells = result.metadata.event, result.cells
            found = np.zeros(0) if cells is None else cells.table()["area"]
            median = f"{np.median(found):.0f}" if len(found) else ""
            where = f"{place.x_pos:.0f}", f"{place.y_pos:.0f}"
            shown.add_row(f"{result.number}", *where, f"{len(found)}", median, result.status)
            if cells is not None:
                stage = cells.to_stage_um(result.stage)
                outlines += stage.outlines_um
                for (x, y), score, area in zip(stage.centres_um, cells.scores, found, strict=True):
                    rows.writerow([result.number, f"{x:.2f}", f"{y:.2f}", f"{score:.3f}", area])
    draw_map(outlines, fields, f"{len(outlines)} outlines in {len(fields)} fields", out)


if __name__ == "__main__":
    main()
