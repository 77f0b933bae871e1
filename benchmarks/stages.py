"""Long runs as a row of announced commands, each shown, timed, and recorded."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click


@dataclass
class Stages:
    """Runs commands of this environment one after the other.

    Args:
        again: the command that starts the whole run, named where a stage fails.
    """

    again: str
    done: list[tuple[str, float]] = field(default_factory=list)
    """Command line and seconds of every stage so far."""

    def run(self, title: str, *command: str | Path) -> None:
        """Announce a stage, show its command, run it; raise `ClickException` if it fails."""
        line = " ".join(map(str, command))
        click.secho(f"\n{title}", bold=True)
        click.echo(f"$ {line}")
        start = time.monotonic()
        program = Path(sys.executable).with_name(str(command[0]))
        ended = subprocess.run([program, *command[1:]], check=False)
        if ended.returncode:
            raise click.ClickException(
                f"'{title}' failed with exit code {ended.returncode}; its message stands above. "
                f"Mend the cause and run `{self.again}` again."
            )
        seconds = time.monotonic() - start
        self.done.append((line, seconds))
        click.echo(f"  {seconds:.0f} s")

    def table(self) -> str:
        """Commands and seconds as Markdown."""
        rows = [f"| `{line}` | {seconds:.0f} |" for line, seconds in self.done]
        return "\n".join(["| command | seconds |", "|---|---|", *rows, ""])


def precision_options() -> list[str]:
    """Training options for this processor: bfloat16 where it multiplies that natively."""
    flags = Path("/proc/cpuinfo").read_text()
    return ["--bf16"] if "avx512_bf16" in flags or "amx_bf16" in flags else []
