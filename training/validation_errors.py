"""Formatting of pydantic's errors as lines that a user can act on."""

from __future__ import annotations

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """Return one indented line ``field: reason, given: value`` per error."""
    return "".join(
        f"\n  {'.'.join(map(str, fault['loc'])) or 'contents'}: {fault['msg']}"
        + ("" if fault["type"] in ("missing", "json_invalid") else f", given: {fault['input']!r}")
        for fault in error.errors(include_url=False)
    )
