"""How a served network was trained, from its recipe, for the notes of tables."""

from __future__ import annotations

from typing import Any

from training.unet.encoders import PLAIN_UNET

SHOWN_SETTINGS = (
    *("encoder", "width", "set_name", "resolution", "mode", "epochs"),
    *("border_map", "class_balance"),
)
"""What a reader wants to know first of a U-Net's training."""


def training_text(recipe: dict[str, Any]) -> str:
    """How a U-Net was trained, from its recipe, in one line."""
    settings = recipe["settings"]
    if settings["encoder"] != PLAIN_UNET:
        settings = {name: value for name, value in settings.items() if name != "width"}
    shown = [f"{name} {settings[name]}" for name in SHOWN_SETTINGS if name in settings]
    return ", ".join([*shown, f"initialised: {recipe['initialised_from']}"])
