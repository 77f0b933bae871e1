"""What every way of serving answers with, and how it is written in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Found:
    """The cells that were found in one frame."""

    boxes: npt.NDArray[np.float32]
    """``[N, 4]`` (x0, y0, x1, y1) in frame pixels."""
    class_ids: npt.NDArray[np.int64]
    """``[N]``."""
    outlines: list[npt.NDArray[np.float32]]
    """N outlines ``[P, 2]`` (x, y) in frame pixels; empty for a cell without a pixel."""

    def __len__(self) -> int:
        return len(self.boxes)

    def as_json(self) -> dict[str, Any]:
        """The cells as lists."""
        return {
            "boxes": self.boxes.tolist(),
            "class_ids": self.class_ids.tolist(),
            "outlines": [outline.tolist() for outline in self.outlines],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Found:
        """The cells that `as_json` wrote."""
        return cls(
            np.array(value["boxes"], np.float32).reshape(-1, 4),
            np.array(value["class_ids"], np.int64),
            [np.array(outline, np.float32).reshape(-1, 2) for outline in value["outlines"]],
        )
