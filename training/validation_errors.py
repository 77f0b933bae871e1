"""pydantic's errors in lines that a user can act on."""

from __future__ import annotations

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """One indented line ``field: reason, given: value`` for each thing that is wrong."""
    return "".join(
        f"\n  {'.'.join(map(str, fault['loc'])) or 'contents'}: {fault['msg']}"
        + ("" if fault["type"] in ("missing", "json_invalid") else f", given: {fault['input']!r}")
        for fault in error.errors(include_url=False)
    )
