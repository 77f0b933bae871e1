"""Results: their type, the machine that made them, their files and tables, and finished runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click
import psutil
from pydantic import TypeAdapter

from benchmarks.published import S3_NETWORKS
from training.run.stages import Stages

PACKAGES = (
    "torch",
    "onnxruntime",
    "ultralytics",
    "segmentation-models-pytorch",
    "tritonclient",
    "nvidia-pytriton",
)

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16")
"""Instructions that decide how fast networks are, in Linux' spelling. Processors with the same name
differ in them."""


def fingerprint() -> dict[str, str]:
    """Return processor, usable cores, memory, system, package versions, git commit and date."""
    said = _said_of_processor()
    return {
        "processor": said.get("model name", platform.processor()),
        "instructions": " ".join(i for i in INSTRUCTIONS if i in said.get("flags", "").split()),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def machine_note(machine: Mapping[str, str]) -> str:
    """Return a fingerprint in one line."""
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _said_of_processor() -> dict[str, str]:
    """Return what Linux reports of the first processor, by name."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): text.strip() for name, _, text in fields}


def _commit() -> str:
    """Return the commit of the source tree, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not a git checkout"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The part that all results share. Each benchmark adds its figures in a subclass."""

    benchmark: str
    """Name of its command after ``python -m benchmarks.``."""
    command: str
    """Command line that made it."""
    machine: Mapping[str, str]
    """`fingerprint` of the machine that made it."""


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """A row about one pipeline and one kind of frame."""

    pipeline: str
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    cells: int
    """Number of cells that were rendered into the frame."""

    @property
    def size(self) -> str:
        """Width and height as text."""
        return f"{self.width}x{self.height}"


Kind = TypeVar("Kind", bound=Result)
Row = TypeVar("Row")


def made_by(benchmark: str) -> dict[str, Any]:
    """Return the fields of a `Result` of ``python -m benchmarks.<benchmark>`` that runs now."""
    command = shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]])
    return {"benchmark": benchmark, "command": command, "machine": fingerprint()}


def to_json(result: Result) -> dict[str, Any]:
    """Return a result as JSON: its fields by name. Numbers that are NaN stay NaN."""
    fields: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return fields


def read_result(file: Path, kind: type[Kind]) -> Kind:
    """Read a result of ``kind`` from its file.

    Raises:
        ValueError: the file holds no JSON, or another version wrote it.
    """
    return TypeAdapter(kind).validate_python(json.loads(file.read_text()))


def write_result(result: Result, page: str, json_file: Path, markdown: Path | None) -> None:
    """Write the figures and, if a file is given, the page; print the page."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(to_json(result), indent=2) + "\n")
    if markdown:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(page)
    click.echo(page)


ABSENT = "-"
"""Cell for a figure that does not exist: the study, or an earlier version's result, lacks it."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown, without a trailing newline.

    Args:
        head: title of each column; that of the last one may be empty.
        rows: one cell per column.
    """
    titles = f"| {' | '.join(head)}".rstrip() + " |"
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([titles, "|---" * len(head) + "|", *lines])


def times_table(stages: Stages) -> str:
    """Return the commands of a run and their seconds as Markdown."""
    rows = ([f"`{line}`", f"{seconds:.0f}"] for line, seconds in stages.done)
    return markdown_table(["command", "seconds"], rows) + "\n"


def table_of(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    """Return rows as a Markdown table; ``columns`` maps a title to the text of a row's cell."""
    return markdown_table(list(columns), ([text(row) for text in columns.values()] for row in rows))


SHOWN_SETTINGS = (
    *("encoder", "width", "set_name", "resolution", "mode", "epochs"),
    *("border_map", "class_balance"),
)
"""Settings of a U-Net's training that its page shows."""


def training_text(recipe: Mapping[str, Any]) -> str:
    """Return in one line how a U-Net was trained, from its recipe."""
    settings = recipe["settings"]
    if settings["encoder"] != S3_NETWORKS[0]:
        settings = {name: value for name, value in settings.items() if name != "width"}
    shown = [f"{name} {settings[name]}" for name in SHOWN_SETTINGS if name in settings]
    return ", ".join([*shown, f"initialised: {recipe['initialised_from']}"])


FACTS_FILE = "protocol.json"
RESULT_FILE = "result.json"


class OtherProtocolError(ValueError):
    """A folder holds results of another data set or other settings."""


@dataclass(frozen=True)
class KeptResults:
    """Caches ``OUT/<run>/result.json`` of every finished run, and the facts that all runs share."""

    out: Path

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the facts, or check that earlier runs in this folder had the same.

        Raises:
            OtherProtocolError: earlier runs had other facts.
        """
        facts = json.loads(json.dumps(facts))
        file = self.out / FACTS_FILE
        if not file.is_file():
            _write(file, facts)
            return
        before = json.loads(file.read_text())
        changed = sorted(n for n in {*facts, *before} if facts.get(n) != before.get(n))
        if changed:
            raise OtherProtocolError(
                f"{self.out} holds results of another protocol:"
                + "".join(f"\n  {n}: {before.get(n)} there, now {facts.get(n)}" for n in changed)
                + "\nGive the same options and data to go on, or another --out to begin anew."
            )

    def folder(self, run: str) -> Path:
        """Return the folder of a run, which also holds its checkpoint."""
        return self.out / run

    def load(self, run: str) -> dict[str, Any] | None:
        """Return the result of a run, or None if it is not finished."""
        file = self.folder(run) / RESULT_FILE
        if not file.is_file():
            return None
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    def save(self, run: str, result: Mapping[str, Any]) -> None:
        """Cache the result of a finished run, atomically."""
        _write(self.folder(run) / RESULT_FILE, result)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(file)
