"""The command line: every command parses, calls the library, prints, and exits with a code of
:mod:`cytoserve.cli.exit_codes`."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

import cytoserve
from cytoserve.cli.doctor import doctor
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.pipelines import pipelines
from cytoserve.cli.prompt import prompt
from cytoserve.cli.segment import segment
from cytoserve.cli.status import status
from cytoserve.cli.watch import watch
from cytoserve.errors import CytoserveError, InvalidRequest, PipelineNotServed, VersionNotServed

__all__ = ["main"]


class _Commands(click.Group):
    """Converts errors of the library into messages and exit codes, for every command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CytoserveError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(_exit_code(error)) from error
        except BrokenPipeError:  # the reader of our output has closed it; click ends quietly
            raise
        except OSError as error:  # such as a full disk; the record so far is kept
            click.echo(f"Error: {error}. Make room, or choose another --out.", err=True)
            raise SystemExit(ExitCode.SOME_FAILED) from error


def _exit_code(error: CytoserveError) -> ExitCode:
    if isinstance(error, InvalidRequest):
        return ExitCode.USAGE
    if isinstance(error, (PipelineNotServed, VersionNotServed)):
        return ExitCode.NOTHING_TO_DO
    return ExitCode.SERVER_FAILED


@click.group(cls=_Commands, epilog=EPILOG)
@click.version_option(cytoserve.__version__, prog_name="cytoserve")
def main() -> None:
    """Segment the cells in microscope images with a cytoserve server."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page lacks letters that a path may have
            stream.reconfigure(errors="backslashreplace")


main.add_command(segment)
main.add_command(watch)
main.add_command(prompt)
main.add_command(pipelines)
main.add_command(doctor)
main.add_command(status)
