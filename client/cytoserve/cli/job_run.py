"""One run of a job, from the opening of its record to its last line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import click
from rich.console import Console

from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.image_run import ImageRun, Job, Tell
from cytoserve.cli.inputs import Input
from cytoserve.cli.run_record import (
    DONE,
    FAILED,
    NOT_DONE,
    SKIPPED,
    STATES,
    Entry,
    RunRecord,
    open_record,
    run_facts,
)
from cytoserve.cli.run_summary import ASKED_AGAIN, found_no_cell, result_line, run_warnings
from cytoserve.client import Client
from cytoserve.contract import PIPELINES
from cytoserve.operating_point import scale_factor
from cytoserve.outputs import outputs
from cytoserve.outputs.run_tables import join_tables
from cytoserve.settings import Settings


@dataclass
class JobRun:
    """A run of one job: open it, :meth:`process` images, and :meth:`close` it in any case.

    Attributes:
        images: does the work on every image.
        entries: key of an image or plane that this run met -> its record.
        unjoined: name of a table of the run that could not be written; empty if there is none.
    """

    images: ImageRun
    record: RunRecord
    tell: Tell
    about: Entry
    started: float
    entries: dict[str, Entry] = field(default_factory=dict, init=False)
    _answered: list[Input] = field(default_factory=list, init=False)  # the first that were done
    unjoined: str = field(default="", init=False)

    @classmethod
    def open(cls, job: Job, client: Client, url: str, tell: Tell) -> JobRun:
        """Ask the server which models answer, and open the record.

        Raises:
            CytoserveError: the server cannot be reached, or refuses the settings; the record is
                not touched.
            click.UsageError: the record cannot be read or written.
        """
        started = time.time()
        models = client.models(job.pipeline)
        if isinstance(job.settings, Settings):  # refused before the record is started
            scale_factor(job.settings, client.card(job.pipeline))
        facts = run_facts(client, url, job.pipeline, asdict(job.settings), job.save, job.timeout)
        about = facts | {"models": models}
        record = open_record(job.out, about)
        return cls(ImageRun(job, client, record, models, tell), record, tell, about, started)

    def process(self, given: Input) -> Iterator[tuple[str, Entry]]:
        """Process and record the planes of one file; yield key and record of each."""
        for plane in self.images.process(given):
            entry = self.record.files[plane.key]
            self.entries[plane.key] = entry
            if entry["status"] == DONE and len(self._answered) < ASKED_AGAIN:
                self._answered.append(plane)
            yield plane.key, entry

    def keep(self, key: str, entry: Entry) -> None:
        """Record an image as it was recorded before."""
        self.record.put(key, entry)
        self.entries[key] = entry

    def leave(self, given: Input, reason: str) -> None:
        """Record that an image is not done."""
        self.images.leave(given, reason)
        self.entries[given.key] = self.record.files[given.key]

    def close(self) -> None:
        """Write the record, and tell the warnings of the run."""
        best_score = None
        try:
            if self._answered and not self.images.stopped and found_no_cell(self.entries):
                best_score = self.images.best_score(self._answered)
        finally:  # also when interrupted
            seconds = round(time.time() - self.started, 3)
            warned = run_warnings(self.entries, best_score)
            ended = {"seconds": seconds, "summary": self._states(), "warnings": warned}
            self.record.save(self.about | {"models": dict(self.images.models), **ended})
            self._join_tables()
        for warning in warned:
            self.tell(warning)

    def _join_tables(self) -> None:
        """Write the tables of all images that the record holds; tell what fails."""
        job = self.images.job
        offered = outputs(PIPELINES[job.pipeline])
        for output in (offered[kind] for kind in job.save if offered[kind].run_file):
            written = (
                job.out / name
                for _, entry in sorted(self.record.files.items())
                if entry["status"] in (DONE, SKIPPED)
                for name in entry.get("outputs", ())
                if name.endswith(f"_{output.ending}")
            )
            parts = [path for path in written if path.is_file()]  # others were removed since
            if not parts:
                continue
            try:
                join_tables(parts, job.out / output.run_file)
            except (OSError, ValueError) as error:
                self.unjoined = output.run_file
                self.tell(
                    f"The tables of the images could not be joined to {job.out / output.run_file}: "
                    f"{error} Close it in other programs, and run the same command again: what is "
                    "done is kept."
                )

    def outcome(self) -> tuple[ExitCode, str]:
        """Return an exit code and a summary in words."""
        states = self._states()
        counts = ", ".join(f"{number} {state}" for state, number in states.items() if number)
        words = f"{counts}. Recorded in {self.record.path}.\n{result_line(self.entries)}".rstrip()
        if self.images.stopped:
            return ExitCode.SERVER_FAILED, words
        failed = states[FAILED] + states[NOT_DONE] > 0 or self.unjoined
        return ExitCode.SOME_FAILED if failed else ExitCode.DONE, words

    def _states(self) -> dict[str, int]:
        states = Counter(entry["status"] for entry in self.entries.values())
        return {state: states[state] for state in STATES}


def open_console() -> Console:
    """Return the console for what is told during a run, on standard error."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def end(code: ExitCode, words: str) -> NoReturn:
    """Print the last words of a command and exit."""
    click.echo(words, err=code is not ExitCode.DONE)
    raise SystemExit(code)
