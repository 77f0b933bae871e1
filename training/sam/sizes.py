"""Names of the sizes of SAM, for use without building a network."""

from __future__ import annotations

PUBLISHED = ("vit_h", "vit_l", "vit_b")
"""Sizes that segment-anything publishes."""

TINY = "tiny"
"""Size that is small enough to be trained from random weights on a CPU."""

SIZES = (*PUBLISHED, TINY)
