"""Long runs as a row of announced commands, each shown, timed, and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

RESUME = "--resume"


@dataclass
class Stages:
    """Runs commands of this environment one after the other.

    Args:
        again: the command that starts the whole run, named where a stage fails.
        record: JSON file of the stages that are done; those in it are not run again.
    """

    again: str
    record: Path | None = None
    done: list[tuple[str, float]] = field(default_factory=list)
    """Command line and seconds of every stage so far."""

    def __post_init__(self) -> None:
        if self.record and self.record.is_file():
            self.done += [(line, seconds) for line, seconds in json.loads(self.record.read_text())]

    def run(self, title: str, *command: str | Path, resume: bool = False) -> None:
        """Announce a stage, show its command, run it; raise `ClickException` if it fails.

        ``resume`` adds ``--resume``: the stage was cut off by an earlier run, and goes on.
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
        if self.record:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.record.write_text(json.dumps(self.done, indent=1) + "\n")
        click.echo(f"  {seconds:.0f} s")

    def table(self) -> str:
        """Commands and seconds as Markdown."""
        rows = [f"| `{line}` | {seconds:.0f} |" for line, seconds in self.done]
        return "\n".join(["| command | seconds |", "|---|---|", *rows, ""])


def precision_options() -> list[str]:
    """Training options for this processor: bfloat16 where it multiplies that natively."""
    flags = Path("/proc/cpuinfo").read_text()
    return ["--bf16"] if "avx512_bf16" in flags or "amx_bf16" in flags else []
