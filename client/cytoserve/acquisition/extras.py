"""Packages that an adapter needs and that the client does without."""

from __future__ import annotations

from importlib.util import find_spec


def require(module: str, extra: str) -> None:
    """Check that a module can be imported, without importing it.

    Args:
        module: name of the module.
        extra: name of the extra in pyproject.toml that installs it.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec(module) is None:
        raise ImportError(
            f"This adapter needs the package {module}; given: an environment without it. Install "
            f"it with `pip install '.[{extra}]'`.",
            name=module,
        )
