"""The sizes of SAM by name, for what asks for one without building it."""

from __future__ import annotations

PUBLISHED = ("vit_h", "vit_l", "vit_b")
"""As segment-anything publishes them."""

TINY = "tiny"
"""Small enough to be trained from random weights on a CPU."""

SIZES = (*PUBLISHED, TINY)
