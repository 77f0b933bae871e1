"""Accuracy budget: how far a faster way to compute may lower figures on real images."""

from __future__ import annotations

from collections.abc import Mapping

LARGEST_DROP = {"iou": 0.005, "accuracy": 0.005, "dice": 0.002}
"""Largest allowed drop per figure.

``iou`` is the mean mask IoU of matched cells, ``accuracy`` the share of them with the right class,
and ``dice`` the mean Dice of a semantic pipeline's masks."""


def drops(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much lower every figure of ``before`` is in ``after``; negative where it is higher."""
    return {name: figure - after[name] for name, figure in before.items()}


def beyond_budget(found: Mapping[str, float]) -> list[str]:
    """One phrase per drop that is beyond its budget; figures without a budget pass.

    A figure that is not a number proves nothing, so it is beyond its budget.
    """
    return [
        f"{name} drops by {found[name]:.4f}, {largest:g} is allowed"
        for name, largest in LARGEST_DROP.items()
        if name in found and not found[name] <= largest
    ]
