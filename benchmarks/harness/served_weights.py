"""Checks which checkpoints a server was exported from, and reads the export's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cytoserve import Client
from cytoserve.model_config import MANIFEST_FILE, versions
from training.checkpoint import RECIPE_FILE, CheckpointError, Recipe


def check_weights(client: Client, checkpoints: Mapping[tuple[str, str], Path]) -> None:
    """Check that the server serves the weights that it is compared with.

    Args:
        client: client of the server.
        checkpoints: (pipeline, model) -> checkpoint folder.

    Raises:
        CheckpointError: a recipe on the server's card differs from that of the checkpoint.
    """
    for (pipeline, model), folder in checkpoints.items():
        recipe = Recipe.model_validate_json((folder / RECIPE_FILE).read_text())
        if client.card(pipeline).recipes.get(model) != recipe.model_dump(mode="json"):
            raise CheckpointError(
                f"the server's {model} was exported from another checkpoint than {folder}; export "
                "this one, or name the one that is served."
            )


def served_size(repository: Path, network: str) -> tuple[int, int] | None:
    """Return (width, height) that a whole-frame network resizes frames to; None: it does not."""
    newest = repository / network / str(versions(repository / network)[-1])
    size = json.loads((newest / MANIFEST_FILE).read_text())["settings"]["resize_to"]
    return None if size is None else (int(size[0]), int(size[1]))
