"""Whether a server answers with the weights that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cytoserve import Client
from training.checkpoint import RECIPE_FILE, CheckpointError, Recipe


def check_weights(client: Client, checkpoints: Mapping[tuple[str, str], Path]) -> None:
    """Refuse to compare the server with other weights than it serves.

    Args:
        client: of the server.
        checkpoints: (pipeline, model) -> checkpoint folder.

    Raises:
        CheckpointError: a recipe on the server's card is not that of the checkpoint.
    """
    for (pipeline, model), folder in checkpoints.items():
        recipe = Recipe.model_validate_json((folder / RECIPE_FILE).read_text())
        if client.card(pipeline).recipes.get(model) != recipe.model_dump(mode="json"):
            raise CheckpointError(
                f"the server's {model} was exported from another checkpoint than {folder}; export "
                "this one, or name the one that is served."
            )
