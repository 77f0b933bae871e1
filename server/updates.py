"""Serve newly exported versions while requests run: none fails, and none sees a mixture."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from cytoserve.contract import Pipeline
from cytoserve.model_config import ModelConfigError
from server.served_repository import ServedRepository

CHECK_S = 2.0
"""Seconds between two looks at the model repository."""

GRACE_S = 60.0
"""Minimum seconds that the former versions stay loaded after the switch, for requests that began
before it."""

CALL_TIMEOUT_S = 5.0


class Updates:
    """Looks for new versions in a thread of its own, until ``stopping`` is set.

    First the new versions of the steps are loaded beside the old ones. Then the pipelines are
    loaded with a configuration that names the new ones: a request that began before still finds
    the old ones. The cards follow, and at last the old versions are unloaded.

    Args:
        repository: what Triton serves from.
        connect: returns a client that may load models.
        tell: prints a line for the operator.
        stopping: ends the thread.
    """

    def __init__(
        self,
        repository: ServedRepository,
        connect: Callable[[], InferenceServerClient],
        tell: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self.repository = repository
        self.connect = connect
        self.tell = tell
        self.stopping = stopping
        self.refused: Mapping[str, int] = {}
        """Versions that could not be loaded, which are not tried again."""
        self.unload_at: float | None = None
        """Time from which the former versions are unloaded; None if there are none."""
        self.gone: set[str] = set()
        """Models of exports that callers can no longer ask for, to be unloaded then."""

    def start(self) -> None:
        """Start to look."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.stopping.wait(CHECK_S):
            # The folder may be out of reach or half written, and the server may be dead until the
            # supervisor has started another. What is loaded is served on, and the next look is due.
            with contextlib.suppress(OSError, ModelConfigError, InferenceServerException):
                self._look()

    def _look(self) -> None:
        newest = self.repository.update()
        if newest is not None and newest != self.refused:
            self.switch(newest)
        elif self.unload_at is not None and time.monotonic() > self.unload_at:
            self.unload_former()

    def switch(self, newest: Mapping[str, int]) -> None:
        """Let new requests be answered by these versions."""
        repository = self.repository
        before = dict(repository.served)
        changed = [name for name, version in newest.items() if before.get(name) != version]
        pipelines = [each for each in repository.pipelines if self._concerns(each, changed)]
        ensembles = {name for each in repository.pipelines for name in (each.name, each.card)}
        steps = [name for name in changed if name not in ensembles]
        last = [each.name for each in pipelines] + [each.card for each in pipelines]
        with repository.lock, closing(self.connect()) as client:
            try:
                for name in changed:
                    repository.add_version(name, newest[name])
                for name in steps:
                    client.load_model(name)
                repository.configure(newest)
                for name in last:
                    client.load_model(name)
            except InferenceServerException as error:
                self._go_back(client, before, newest, [*steps, *last], error)
                return
            repository.served = newest
            self._offer_exports(client, newest)
            self.unload_at = time.monotonic() + GRACE_S
        names = ", ".join(f"{each.name} {newest[each.name]}" for each in pipelines)
        self.tell(f"Now serving the new version of {names}.")

    def _offer_exports(self, client: InferenceServerClient, newest: Mapping[str, int]) -> None:
        """Load the exports that callers may ask for by version, and mark those that are gone."""
        repository = self.repository
        before, now = repository.exports, repository.find_exports(newest)
        for export in now:
            repository.add_export(export)
            for name in export.names if export not in before else ():
                client.load_model(name)
        offered = {name for export in now for name in export.names}
        self.gone |= {name for export in before for name in export.names}
        self.gone -= offered
        repository.exports = now

    def _concerns(self, pipeline: Pipeline, changed: Collection[str]) -> bool:
        models = {*self.repository.steps(pipeline), pipeline.name, pipeline.card}
        return bool(models & set(changed))

    def _go_back(
        self,
        client: InferenceServerClient,
        before: Mapping[str, int],
        newest: Mapping[str, int],
        models: list[str],
        error: InferenceServerException,
    ) -> None:
        """Hide what could not be loaded, so that a restart does not meet it either."""
        repository = self.repository
        client.is_server_live(client_timeout=CALL_TIMEOUT_S)  # raises if the server is dead
        repository.configure(before)
        repository.remove_other_versions(before)
        self.refused = newest
        self.tell(
            f"The new version cannot be served, so the former one goes on: {_reason(error)}. "
            "Export it again, or go back: python -m export rollback PIPELINE"
        )
        for name in models:
            client.load_model(name)

    def unload_former(self) -> None:
        """Unload the versions that no request uses any more."""
        repository = self.repository
        with repository.lock, closing(self.connect()) as client:
            former = [name for name in repository.served if len(repository.visible(name)) > 1]
            for name in sorted(self.gone):
                client.unload_model(name)
            self.gone.clear()
            repository.remove_other_versions(repository.served)
            for name in former:
                client.load_model(name)
            self.unload_at = None


def _reason(error: InferenceServerException) -> str:
    """Return the text of an error without the traceback that a worker adds."""
    return str(error.message()).split("\n\nAt:")[0].strip(" ;\n")
