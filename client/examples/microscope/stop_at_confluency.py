"""Stop a time lapse when the cells cover so many percent of the dish.

python client/examples/microscope/stop_at_confluency.py --picture cells.png --confluency 10
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import useq
from drawing import draw_curve
from simulated_microscope import grow, microscope

from cytoserve.acquisition import FrameAnalyzer, FrameResult
from cytoserve.acquisition.with_pymmcore_plus import AdaptiveEvents


@click.command(help=__doc__)
@click.option("--picture", type=Path, required=True, help="What lies under the microscope.")
@click.option("--confluency", default=10.0, show_default=True, help="Percent of the frame.")
@click.option("--pipeline", default="glioma_unet", show_default=True)
@click.option("--url", default="localhost:8001", show_default=True)
@click.option("--frames", default=20, show_default=True, help="Most frames to take.")
@click.option("--out", type=Path, default=Path("confluency.png"), show_default=True)
def main(picture: Path, confluency: float, pipeline: str, url: str, frames: int, out: Path) -> None:
    """Acquire until it is enough, and draw the curve."""
    core = microscope(*grow(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE), frames))
    percents: list[float] = []

    def decide(result: FrameResult) -> None:
        if result.foreground is None:
            click.echo(f"{result.status}: {result.reason}")
            return
        percents.append(result.foreground.confluency)
        click.echo(f"frame {result.number}: {percents[-1]:.1f} % are covered")
        if percents[-1] >= confluency:
            events.stop()

    def one_by_one() -> Iterator[useq.MDAEvent]:
        for number in range(frames):
            yield useq.MDAEvent(index={"t": number}, min_start_time=0.5 * number)

    with FrameAnalyzer(url, pipeline) as analyzer:
        events = AdaptiveEvents(analyzer, one_by_one(), decide)
        core.mda.run(events, output=[events])
    click.echo(f"{analyzer.statistics().submitted} of at most {frames} frames were taken.")
    draw_curve(percents, "percent covered", out)


if __name__ == "__main__":
    main()
