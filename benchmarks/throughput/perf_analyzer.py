"""Runs Triton's perf_analyzer, and makes a repository that it can send requests to."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil
from google.protobuf import text_format

from cytoserve.contract import PIPELINES
from cytoserve.model_config import CONFIG_FILE, VARIANT_FOLDER, read_config, versions
from cytoserve.transport import Request

FOLDER = Path(__file__).parents[2] / ".bench" / "perf_analyzer"
"""Folder into which ``make bench-tools`` installs it."""

INSTALL = "make bench-tools"

WINDOWS = 3
"""Minimum number of its windows, one after the other; it reports their mean."""

ANY_SPREAD = 999
"""Percent by which its windows may differ. Other clients are not repeated until they agree."""

LAST_LINES = 5
"""Number of lines of its output that an error shows."""

_CLIENT = re.compile(
    r"Client:\s+Request count: (?P<answers>\d+)\s.*?Throughput: (?P<rate>[\d.]+) infer/sec"
    r".*?p50 latency: (?P<p50>\d+) usec.*?p99 latency: (?P<p99>\d+) usec",
    re.DOTALL,
)
_LOAD_BEGINS = "Request concurrency:"


class PerfAnalyzerMissing(RuntimeError):
    """``perf_analyzer`` or one of its libraries is missing; the message says what to run."""


class PerfAnalyzerFailed(RuntimeError):
    """``perf_analyzer`` ended without a measurement; the message holds its last lines."""


@dataclass(frozen=True)
class Report:
    """Result of one measurement by ``perf_analyzer``."""

    answers: int
    frames_per_second: float
    p50: float
    """Median seconds from a request to its answer."""
    p99: float
    cpu_seconds: float = 0.0
    """Processor seconds of its own process while it asked."""


@dataclass(frozen=True)
class PerfAnalyzer:
    """The installed program. `find` returns one that starts."""

    program: Path
    libraries: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which it finds its libraries."""
        before = os.environ.get("LD_LIBRARY_PATH", "")
        paths = [*map(str, self.libraries), *filter(None, [before])]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}

    @contextmanager
    def asking(
        self, url: str, model: str, frames: Path, *, concurrency: int, seconds: float
    ) -> Iterator[Measurement]:
        """Start it, and begin the block when it sends requests.

        Args:
            url: ``host:port`` of the gRPC endpoint.
            model: the pipeline.
            frames: a file of `write_frames`.
            concurrency: number of open requests at any time.
            seconds: duration of the measurement, with all requests open until the end. If it gets a
                number of answers instead, requests run out, and its rate counts whole seconds.

        Raises:
            PerfAnalyzerFailed: it ended before it sent a request.
        """
        arguments: dict[str, object] = {
            "-m": model,
            "-u": url,
            "-i": "grpc",
            "--input-data": frames,
            "--concurrency-range": concurrency,
            "--measurement-interval": ceil(1000 * seconds / WINDOWS),
            "--max-trials": WINDOWS,
            "--stability-percentage": ANY_SPREAD,
        }
        before = _children_cpu()
        process = subprocess.Popen(
            [self.program, *(str(word) for pair in arguments.items() for word in pair)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield Measurement(process, before)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


class Measurement:
    """One run of ``perf_analyzer`` that has begun to send requests."""

    def __init__(self, process: subprocess.Popen[str], cpu_before: float) -> None:
        self._process = process
        assert process.stdout is not None
        self._output = ""
        for line in process.stdout:
            self._output += line
            if line.startswith(_LOAD_BEGINS):
                break
        else:
            process.wait()
            raise PerfAnalyzerFailed(_last_lines(self._output))
        times = psutil.Process(process.pid).cpu_times()
        self._cpu_before = cpu_before + times.user + times.system  # including reading the frames

    def report(self) -> Report:
        """Wait for its end and return its result.

        Raises:
            PerfAnalyzerFailed: it ended with an error or reports no measurement.
        """
        assert self._process.stdout is not None
        self._output += self._process.stdout.read()
        if self._process.wait():
            raise PerfAnalyzerFailed(_last_lines(self._output))
        return read_report(self._output, _children_cpu() - self._cpu_before)


def find(folder: Path | None = None) -> PerfAnalyzer:
    """Return the program in ``folder``, by default `FOLDER`, after a trial start.

    Raises:
        PerfAnalyzerMissing: it is not installed, or a library that it needs is not found.
    """
    folder = folder or FOLDER
    debian = sorted((folder / "debian" / "usr" / "lib").glob("*-linux-gnu"))
    libraries = (folder / "nvidia" / "cuda_runtime" / "lib", *debian)
    tool = PerfAnalyzer(folder / "bin" / "perf_analyzer", libraries)
    if not tool.program.is_file():
        raise PerfAnalyzerMissing(
            f"perf_analyzer is expected at {tool.program}; it is not there. Run `{INSTALL}`."
        )
    done = subprocess.run(
        [tool.program, "--version"],
        env=tool.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if "Perf Analyzer" not in done.stdout:  # its exit code does not tell
        raise PerfAnalyzerMissing(
            f"{tool.program} must start; it says: {_last_lines(done.stdout)} Run `{INSTALL}` again."
        )
    return tool


def write_frames(requests: Sequence[Request], file: Path) -> None:
    """Write requests as perf_analyzer reads them; it sends them one after the other, repeatedly."""
    data = [
        {
            name: {
                "content": {"b64": base64.b64encode(array.tobytes()).decode()},
                "shape": list(array.shape),
            }
            for name, array in request.inputs.items()
        }
        for request in requests
    ]
    file.write_text(json.dumps({"data": data}))


def read_report(output: str, cpu_seconds: float = 0.0) -> Report:
    """Read a measurement from its output.

    Raises:
        PerfAnalyzerFailed: the output has no measurement.
    """
    found = _CLIENT.search(output)
    if found is None:
        raise PerfAnalyzerFailed(_last_lines(output))
    return Report(
        int(found["answers"]),
        float(found["rate"]),
        int(found["p50"]) / 1e6,
        int(found["p99"]) / 1e6,
        cpu_seconds,
    )


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:]) or "nothing"


def _children_cpu() -> float:
    """Return the processor seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def without_outputs_on_request(repository: Path, pipelines: Sequence[str], folder: Path) -> Path:
    """Fill ``folder`` with links to the models, and reduced configurations of the pipelines.

    ``perf_analyzer`` asks for all outputs of a model and cannot be told otherwise. cytoserve's
    client leaves out those on request. In this view both ask for the same work.

    Returns:
        ``folder``, a model repository of the pipelines and all that they need.
    """
    for model in sorted(path for path in repository.resolve().iterdir() if path.is_dir()):
        if model.name not in pipelines:
            (folder / model.name).symlink_to(model)
            continue
        (folder / model.name).mkdir()
        for number in map(str, versions(model)):
            (folder / model.name / number).symlink_to(model / number)
        for file in (model / CONFIG_FILE, *(model / VARIANT_FOLDER).glob("*.pbtxt")):
            own = folder / file.relative_to(repository.resolve())
            own.parent.mkdir(exist_ok=True)
            own.write_text(_reduced(file, model.name))
    return folder


def _reduced(file: Path, pipeline: str) -> str:
    config = read_config(file)
    left_out = {tensor.name for tensor in PIPELINES[pipeline].on_request}
    outputs = [tensor for tensor in config.output if tensor.name not in left_out]
    scheduling = config.ensemble_scheduling
    steps = [step for step in scheduling.step if not left_out & set(step.output_map.values())]
    # Triton refuses an ensemble with a tensor that nothing reads.
    read = {tensor.name for tensor in outputs}.union(*(step.input_map.values() for step in steps))
    for step in steps:
        for name, tensor in list(step.output_map.items()):
            if tensor not in read:
                del step.output_map[name]
    del config.output[:], scheduling.step[:]
    config.output.extend(outputs)
    scheduling.step.extend(steps)
    return text_format.MessageToString(config)
