"""How a benchmark names the way that a repository is served in, and asks the server for it."""

from __future__ import annotations

DEFAULT = "default"
"""Every model by its ``config.pbtxt``; the other names are those of `server.variants.VARIANTS`."""


SINGLE_GRAPH = "single-graph"
"""The variant that computes the default's graphs in another arrangement."""


def variant_options(name: str) -> list[str]:
    """Options of ``python -m server`` that choose `DEFAULT` or a variant."""
    return [] if name == DEFAULT else [f"--variant={name}"]
