"""Runs commands one after the other, as a user would, and makes repositories for their models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.harness.results import markdown_table
from export.repository.configs import write_configs

RESUME = "--resume"
RECORD = "stages.json"
"""File in a run's folder that records the finished stages."""


@dataclass
class Stages:
    """Runs commands of this environment one after the other.

    Args:
        again: command that restarts the whole run, for the message if a stage fails.
        out: the run's folder, which records the finished stages; they are not run again.
    """

    again: str
    out: Path
    done: list[tuple[str, float]] = field(default_factory=list)
    """Command line and seconds of every finished stage."""

    def __post_init__(self) -> None:
        if self.record.is_file():
            self.done += [(line, seconds) for line, seconds in json.loads(self.record.read_text())]
        self._save()

    @property
    def record(self) -> Path:
        """File that records the finished stages."""
        return self.out / RECORD

    def run(self, title: str, *command: str | Path, resume: bool = False) -> None:
        """Announce a stage, show its command, and run it.

        ``resume`` adds ``--resume``, to continue a stage that an earlier run left unfinished.

        Raises:
            click.ClickException: the stage fails.
        """
        words = [*map(str, command), *([RESUME] if resume else [])]
        line = " ".join(words)
        click.secho(f"\n{title}", bold=True)
        click.echo(f"$ {line}")
        before = {done.removesuffix(f" {RESUME}"): seconds for done, seconds in self.done}
        seconds = before.get(line.removesuffix(f" {RESUME}"))
        if seconds is not None:
            click.echo(f"  done before, in {seconds:.0f} s")
            return
        start = time.monotonic()
        program = Path(sys.executable).with_name(words[0])
        ended = subprocess.run([program, *words[1:]], check=False)
        if ended.returncode:
            raise click.ClickException(
                f"'{title}' failed with exit code {ended.returncode}; its message stands above. "
                f"Mend the cause and run `{self.again}` again."
            )
        seconds = time.monotonic() - start
        self.done.append((line, seconds))
        self._save()
        click.echo(f"  {seconds:.0f} s")

    def _save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps(self.done, indent=1) + "\n")

    def table(self) -> str:
        """Return commands and seconds as Markdown."""
        rows = [[f"`{line}`", f"{seconds:.0f}"] for line, seconds in self.done]
        return markdown_table(["command", "seconds"], rows) + "\n"


def begin_afresh(out: Path) -> None:
    """Remove the folder of an earlier run.

    Raises:
        click.UsageError: the folder holds other files, which must not be lost.
    """
    if out.exists() and not (out / RECORD).is_file() and any(out.iterdir()):
        raise click.UsageError(
            f"--out {out} must be new, empty or of an earlier run, whose {RECORD} it then holds; "
            "name another folder, or empty this one yourself."
        )
    shutil.rmtree(out, ignore_errors=True)


def precision_options() -> list[str]:
    """Return training options for this processor: bfloat16 if it multiplies that natively."""
    flags = Path("/proc/cpuinfo").read_text()
    return ["--bf16"] if "avx512_bf16" in flags or "amx_bf16" in flags else []


SOURCE = Path("model_repository")
ADAPTERS = "*/1/model.py"


def copy_repository(target: Path) -> None:
    """Make ``target`` a repository of configurations and adapters, without exported versions."""
    target.mkdir(parents=True, exist_ok=True)
    write_configs(target)
    for file in SOURCE.glob(ADAPTERS):
        copy = target / file.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
