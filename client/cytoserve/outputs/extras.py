"""Packages that a kind of file needs and that the client does without."""

from __future__ import annotations

from importlib.util import find_spec

MODULES = {
    "pyarrow": "parquet",
    "roifile": "rois",
    "zarr": "zarr",
    "pandas": "pandas",
}
"""Module -> extra in pyproject.toml that installs it."""


def require(module: str) -> None:
    """Check that a module of :data:`MODULES` can be imported, without importing it.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec(module) is None:
        raise ImportError(
            f"This needs the package {module}; given: an environment without it. Install it with "
            f"`pip install '.[{MODULES[module]}]'`.",
            name=module,
        )
