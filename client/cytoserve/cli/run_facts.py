"""The facts at the start of ``run.json`` that make a run reproducible."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import cytoserve
from cytoserve.cli.run_record import Entry
from cytoserve.client import Client


def run_facts(
    client: Client, url: str, pipeline: str, settings: Any, save: Sequence[str], timeout: float
) -> Entry:
    """Return versions, server, pipeline and settings; ``settings`` is written unchanged."""
    server = client.server_info()
    return {
        "cytoserve": cytoserve.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "server": {"url": url, "name": server.name, "version": server.version},
        "pipeline": pipeline,
        "settings": settings,
        "save": list(save),
        "timeout_s": timeout,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
