"""Find the cells of one class on a grid at 10x, and look at each of them at 40x.

python client/examples/microscope/revisit_cells.py --picture nuclei.png --wanted cell
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
import useq
from drawing import draw_map
from simulated_microscope import SIDE_PX, microscope

from cytoserve.acquisition import FrameAnalyzer, FrameResult
from cytoserve.acquisition.with_pymmcore_plus import AdaptiveEvents

OVERVIEW, CLOSE = ({"group": "Objective", "config": name} for name in ("10X", "40X"))
APART_UM = 5.0  # cells nearer than this are one, seen in two frames of the grid


@click.command(help=__doc__)
@click.option("--picture", type=Path, required=True, help="What lies under the microscope.")
@click.option("--wanted", default="cell", show_default=True, help="Class to look at closely.")
@click.option("--url", default="localhost:8001", show_default=True)
@click.option("--out", type=Path, default=Path("visited.png"), show_default=True)
def main(picture: Path, wanted: str, url: str, out: Path) -> None:
    """Scan, decide, look again, and draw where it was."""
    core = microscope(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE))
    places: list[tuple[float, float]] = []
    outlines: list[np.ndarray] = []

    def decide(result: FrameResult) -> list[useq.MDAEvent]:
        event = result.metadata.event
        if result.cells is None or event.channel.config == CLOSE["config"]:
            click.echo(f"({event.x_pos:.0f}, {event.y_pos:.0f}) um: {result.status}")
            return []
        cells = result.cells.of_class(wanted)
        whole = (cells.boxes[:, :2] > 1).all(1) & (cells.boxes[:, 2:] < SIDE_PX - 1).all(1)
        found = cells[whole].to_stage_um(result.stage)  # cut ones are whole in the next field
        outlines.extend(found.outlines_um)
        new = []
        for place in map(tuple, found.centres_um.tolist()):
            if all(np.hypot(*np.subtract(place, other)) > APART_UM for other in places):
                places.append(place)
                new.append(useq.MDAEvent(x_pos=place[0], y_pos=place[1], channel=CLOSE))
        return new

    grid = [useq.MDAEvent(x_pos=x, y_pos=0, channel=OVERVIEW) for x in (-SIDE_PX / 4, SIDE_PX / 4)]
    with FrameAnalyzer(url, "yolo", when_busy="wait", queue_size=4) as analyzer:
        events = AdaptiveEvents(analyzer, grid, decide)
        core.mda.run(events, output=[events])
    click.echo(f"{len(places)} cells of class {wanted} were looked at. {analyzer.statistics()}")
    draw_map(outlines, places, f"{len(places)} cells, each seen at 40x", out)


if __name__ == "__main__":
    main()
