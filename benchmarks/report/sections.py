"""Lists what the report shows of each result: table, plots, and the command that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.approaches.tables import approaches_table
from benchmarks.bounds import regression_table
from benchmarks.fields.tables import fields_table
from benchmarks.glioma import tables as glioma_tables
from benchmarks.instances.tables import instances_page
from benchmarks.latency.tables import latency_table
from benchmarks.nuclei import tables as nuclei_tables
from benchmarks.peers.tables import peers_table
from benchmarks.report.drawing import Plot
from benchmarks.report.plots import (
    fields_plots,
    latency_plots,
    peers_plots,
    scaling_plots,
    throughput_plots,
    variants_plots,
)
from benchmarks.scaling.tables import scaling_table
from benchmarks.throughput.tables import throughput_table
from benchmarks.variants.tables import variants_table

Result = Mapping[str, Any]


def _no_plots(result: Result) -> Sequence[Plot]:
    return ()


@dataclass(frozen=True)
class ReportEntry:
    """A result in the report."""

    name: str
    """Name of its file without ``.json``."""
    title: str
    text: str
    """Description of the measurement, as Markdown."""
    command: str
    """Command that makes it; a command that the result records takes precedence."""
    table: Callable[[Any], str]
    plots: Callable[[Result], Sequence[Plot]] = _no_plots


ENTRIES = (
    ReportEntry(
        "latency",
        "Latency",
        "One client that asks alone: what the server adds to the graphs, where the time of a call "
        "goes, and how it grows with cells and pixels.",
        "python -m benchmarks.latency --json benchmarks/results/latency.json",
        latency_table,
        latency_plots,
    ),
    ReportEntry(
        "throughput",
        "Throughput",
        "Frames per second as more requests are sent at a time, against the most that the same "
        "graphs answer in one process, without a server, in their best layout of threads.",
        "python -m benchmarks.throughput --json benchmarks/results/throughput.json",
        throughput_table,
        throughput_plots,
    ),
    ReportEntry(
        "peers",
        "What people use instead",
        "The same weights and frames, served in other ways; the cells that each finds are compared "
        "before any time is taken.",
        "make peers && python -m benchmarks.peers --cells runs/general --targets runs/targets "
        "--classifier runs/classifier --json benchmarks/results/peers.json",
        peers_table,
        peers_plots,
    ),
    ReportEntry(
        "scaling",
        "Growth",
        "How time and memory grow with cells, pixels, clients and pipelines.",
        "python -m benchmarks.scaling --json benchmarks/results/scaling.json",
        scaling_table,
        scaling_plots,
    ),
    ReportEntry(
        "variants",
        "Faster variants",
        "The same networks in bfloat16 or 8-bit integers, where the processor has the "
        "instructions for it: how much faster, and what it costs in accuracy.",
        "python -m benchmarks.variants --json benchmarks/results/variants.json",
        variants_table,
        variants_plots,
    ),
    ReportEntry(
        "fields",
        "Size, place and scale of a frame",
        "The same cells in frames of other sizes, offsets and scales, and frames without cells.",
        "python -m benchmarks.fields --data data --json benchmarks/results/fields.json",
        fields_table,
        fields_plots,
    ),
    ReportEntry(
        "bccd",
        "Study S1 on blood cells",
        "Both approaches of the study on real images, and the same weights run as the study did.",
        "python -m benchmarks.bccd --bccd data/bccd --dsb2018 data/dsb2018",
        approaches_table,
    ),
    ReportEntry(
        "t98g-unet",
        "Study S2 on glioma cells",
        "A U-Net on whole frames of T98G cells.",
        "python -m benchmarks.t98g --t98g data/t98g",
        glioma_tables.served_page,
    ),
    ReportEntry(
        "brecahad",
        "Study S3 on stained tissue",
        "Nuclei of BreCaHAD's frames: cleaned, tiled, segmented by the plain U-Net and stitched.",
        "python -m benchmarks.brecahad --brecahad data/BreCaHAD",
        nuclei_tables.served_page,
    ),
    ReportEntry(
        "brecahad-resnet50",
        "Study S3 on stained tissue, U-Net_ResNet50",
        "The same by the study's other network.",
        "python -m benchmarks.brecahad --brecahad data/BreCaHAD",
        nuclei_tables.served_page,
    ),
    ReportEntry(
        "t98g-instances",
        "Study S4 on glioma cells",
        "Mask R-CNN, and its boxes as prompts for SAM.",
        "python -m benchmarks.t98g_instances --data data/t98g",
        instances_page,
    ),
    ReportEntry(
        "regression",
        "Regression check",
        "What every change is held to, with bounds that a busy machine keeps.",
        "python -m benchmarks.regression --json benchmarks/results/regression.json",
        regression_table,
    ),
)
"""Entries in the order of the page."""
