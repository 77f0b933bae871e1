"""A pipeline run in this process: the ensemble's graphs in its order, without a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cytoserve.model_config import MODEL_FILES, read_config, versions
from export.graphs.files import open_session

Arrays = dict[str, npt.NDArray[np.generic]]


class Chain:
    """Runs the steps of an ensemble with ONNX Runtime as its ``config.pbtxt`` wires them.

    Steps that no requested output depends on do not run, as in Triton. Python steps are left out:
    their outputs cannot be requested here.

    Args:
        repository: a model repository.
        pipeline: the ensemble's name.
        models: model files by step, used in place of the newest installed ones.
        threads: threads per session; 0 uses all cores.
    """

    def __init__(
        self,
        repository: Path,
        pipeline: str,
        models: Mapping[str, Path] | None = None,
        threads: int = 0,
    ) -> None:
        self.pipeline = pipeline
        config = read_config(repository / pipeline / "config.pbtxt")
        self.steps = list(config.ensemble_scheduling.step)
        self.sessions = {}
        for step in self.steps:
            name = step.model_name
            file = (models or {}).get(name) or newest_graph(repository / name)
            if file is not None:
                self.sessions[name] = open_session(file, threads)

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]], requested: Sequence[str]
    ) -> Arrays:
        """Compute the ``requested`` tensors of the ensemble from its ``inputs``."""
        values: Arrays = dict(inputs)
        needed = self._needed(set(requested))
        for step in self.steps:
            if step.model_name not in needed:
                continue
            session = self.sessions[step.model_name]
            feeds = {own: values[wired] for own, wired in step.input_map.items()}
            names = list(step.output_map)
            for name, array in zip(names, session.run(names, feeds), strict=True):
                values[step.output_map[name]] = array
        return {name: values[name] for name in requested}

    def _needed(self, wanted: set[str]) -> set[str]:
        """Steps that the wanted tensors depend on; ensembles list their steps in order."""
        needed = set()
        for step in reversed(self.steps):
            if wanted & set(step.output_map.values()):
                needed.add(step.model_name)
                wanted = wanted | set(step.input_map.values())
        return needed


def newest_graphs(repository: Path, names: Iterable[str]) -> dict[str, Path]:
    """Step -> its graph in use, for those of the named steps that are exported."""
    found = {name: newest_graph(repository / name) for name in names}
    return {name: file for name, file in found.items() if file is not None}


def newest_graph(model: Path) -> Path | None:
    """The newest installed ONNX file of a step; None for a step in Python."""
    numbers = versions(model)
    file = model / str(numbers[-1]) / MODEL_FILES["onnxruntime"] if numbers else model
    return file if file.is_file() else None
