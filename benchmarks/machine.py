"""The fingerprint of the machine and the software that figures were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import psutil

PACKAGES = (
    "torch",
    "onnxruntime",
    "ultralytics",
    "segmentation-models-pytorch",
    "tritonclient",
    "nvidia-pytriton",
)


def fingerprint() -> dict[str, str]:
    """Processor, usable cores, memory, system, package versions, the git commit, and the day."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def machine_note(machine: Mapping[str, str]) -> str:
    """A fingerprint in one line."""
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    """The commit of the source tree, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not a git checkout"
