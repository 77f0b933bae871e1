"""Runs commands one after the other, as a user would, and remembers those that are done."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

RESUME = "--resume"
RECORD = "stages.json"
"""File in a run's folder that records the finished stages."""


@dataclass
class Stages:
    """Runs commands of this environment one after the other.

    Args:
        again: command that goes on with the run, for the message if a stage fails.
        out: the run's folder, which records the finished stages; they are not run again.
    """

    again: str
    out: Path
    done: list[tuple[str, float]] = field(default_factory=list)
    """Command line and seconds of every stage that this run has done, or found done."""
    _before: list[tuple[str, float]] = field(default_factory=list, init=False)
    """Command line and seconds of an earlier run's stages that this one has not come to."""

    def __post_init__(self) -> None:
        if self.record.is_file():
            for line, seconds in json.loads(self.record.read_text()):
                self._before.append((line.removesuffix(f" {RESUME}"), seconds))
        self._save()

    @property
    def record(self) -> Path:
        """File that records the finished stages."""
        return self.out / RECORD

    def run(self, title: str, *command: str | Path, resume: bool = False) -> None:
        """Announce a stage, show its command, and run it.

        ``resume`` adds ``--resume``, to continue a stage that an earlier run left unfinished. Once
        a stage is run, those after it are run again too.

        Raises:
            click.ClickException: the stage fails, or is interrupted.
        """
        words = [*map(str, command), *([RESUME] if resume else [])]
        line = shlex.join(words)
        click.secho(f"\n{title}", bold=True)
        click.echo(f"$ {line}")
        if self._before and self._before[0][0] == line.removesuffix(f" {RESUME}"):
            self.done.append(self._before.pop(0))
            click.echo(f"  done before, in {self.done[-1][1]:.0f} s")
            return
        self._before.clear()
        self._save()
        start = time.monotonic()
        program = Path(sys.executable).with_name(words[0])
        code = self._wait(subprocess.Popen([program, *words[1:]]))
        if code:
            raise click.ClickException(
                f"'{title}' failed with exit code {code}; its message stands above. Mend the cause "
                f"and run `{self.again}` again."
            )
        self.done.append((line.removesuffix(f" {RESUME}"), time.monotonic() - start))
        self._save()
        click.echo(f"  {self.done[-1][1]:.0f} s")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a command, and on Ctrl-C, which reaches it as well, for its last words."""
        try:
            return process.wait()
        except KeyboardInterrupt as error:
            process.wait()
            raise click.ClickException(f"interrupted. Go on with `{self.again}`.") from error

    def _save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps([*self.done, *self._before], indent=1) + "\n")


def resume_command(module: str) -> str:
    """Return the command line that goes on with this run of ``python -m module``."""
    words = [word for word in sys.argv[1:] if word != RESUME]
    return shlex.join(["python", "-m", module, *words, RESUME])


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
