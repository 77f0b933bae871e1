"""Results as they are left behind: figures as JSON, tables as Markdown, and on the terminal."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.machine import fingerprint


def new_result(benchmark: str, **figures: Any) -> dict[str, Any]:
    """Figures of ``python -m benchmarks.<benchmark>``, and what makes them again: where and how."""
    return {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "machine": fingerprint(),
        **figures,
    }


def write_result(
    result: Mapping[str, Any], page: str, json_file: Path, markdown: Path | None
) -> None:
    """Write the figures and, where a file is given, the page; print the page."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(result, indent=2) + "\n")
    if markdown:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(page)
    click.echo(page)
