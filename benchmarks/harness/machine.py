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

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16")
"""Those that decide how fast networks are, as Linux names them: processors of one name differ."""


def fingerprint() -> dict[str, str]:
    """Processor, usable cores, memory, system, package versions, the git commit, and the day."""
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
    """A fingerprint in one line."""
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _said_of_processor() -> dict[str, str]:
    """What Linux says of the first processor, by name."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): text.strip() for name, _, text in fields}


def _commit() -> str:
    """The commit of the source tree, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not a git checkout"
