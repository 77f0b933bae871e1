"""Analyse the frames of a running acquisition, without ever holding it up.

::

    from cytoserve.acquisition import FrameAnalyzer

    with FrameAnalyzer("localhost:8001", "yolo", deadline=1.0) as analyzer:
        analyzer.warm_up()
        tickets = [analyzer.submit(frame) for frame in frames]
    print(analyzer.statistics())

It imports no microscope package. :mod:`cytoserve.acquisition.with_pymmcore_plus`,
:mod:`cytoserve.acquisition.with_pycromanager` and
:mod:`cytoserve.acquisition.with_python_microscope` connect it with theirs.
"""

from cytoserve.acquisition.analyzer import FrameAnalyzer
from cytoserve.acquisition.async_analyzer import AsyncFrameAnalyzer, AsyncResults, AsyncTicket
from cytoserve.acquisition.frame_queue import WhenBusy
from cytoserve.acquisition.results import Results
from cytoserve.acquisition.stage import CellsOnStage, StageTransform
from cytoserve.acquisition.statistics import AnalyzerStatistics
from cytoserve.acquisition.tickets import FrameResult, Status, Ticket

__all__ = [
    "AnalyzerStatistics",
    "AsyncFrameAnalyzer",
    "AsyncResults",
    "AsyncTicket",
    "CellsOnStage",
    "FrameAnalyzer",
    "FrameResult",
    "Results",
    "StageTransform",
    "Status",
    "Ticket",
    "WhenBusy",
]
