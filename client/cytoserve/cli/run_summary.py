"""Puts into words what a run over many images found: its warnings, and one line of figures.

Both come from the images' entries in ``run.json``, so images that an earlier run has done and this
one skips count as well. Only the best score below a threshold is not recorded there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cytoserve.cli.run_record import DONE, SKIPPED, Entry
from cytoserve.contract import PIPELINES, WHITE_LEVEL_INPUT

Entries = Mapping[str, Entry]
"""Key of an image -> its entry in ``run.json``."""

ASKED_AGAIN = 3
"""Number of images that are asked again for their best score if none has a cell."""

HARDLY_PERCENT = 0.05
"""Confluency in percent that is nothing, and as far from 100 everything: both print as such."""


def found_no_cell(entries: Entries) -> bool:
    """Tell whether cells were looked for and no image has one."""
    answered = list(_answered(entries).values())
    return bool(answered) and not any(entry.get("cells", 1) for entry in answered)


def run_warnings(entries: Entries, best_score: float | None = None) -> list[str]:
    """Return the warnings of a run: one line for each kind, with the first image of that kind.

    A last line tells if no image has a cell, or all are foreground, or none is.

    Args:
        entries: the images' entries.
        best_score: highest score seen below the threshold, for a run without a cell; None if it is
            unknown.
    """
    entries = _answered(entries)
    concerned: dict[str, list[str]] = {}
    for key, entry in entries.items():
        for kind in entry.get("warnings", {}):
            concerned.setdefault(kind, []).append(key)
    lines = [
        f"warning, {len(keys):,} of {_number(len(entries), 'image')}: {keys[0]}: "
        f"{entries[keys[0]]['warnings'][kind]}"
        for kind, keys in concerned.items()
    ]
    return lines + (
        [f"warning: {same}"] if (same := _in_all(list(entries.values()), best_score)) else []
    )


def result_line(entries: Entries) -> str:
    """Return what was found in all images, and how quickly, in one line.

    The speed is that of the images that were done in this run, from reading to saving. The line is
    empty if no image has a result.
    """
    answered = list(_answered(entries).values())
    if not answered:
        return ""
    facts = [_number(len(answered), "image")]
    facts += _cells(answered) if "cells" in answered[0] else _foreground(answered)
    spent = [sum(entry["seconds"].values()) for entry in answered if entry["status"] == DONE]
    if spent:
        rate = len(spent) / max(sum(spent), 1e-9)
        facts.append(f"{rate:.1f} images per second" if rate >= 1 else f"{1 / rate:.1f} s an image")
    warned = sum(bool(entry.get("warnings")) for entry in answered)
    if warned:
        facts.append(f"{warned:,} with warnings")
    return ", ".join(facts)


def image_line(key: str, entry: Entry) -> str:
    """Return what was found in one image, and how quickly, in one line."""
    facts = _cells([entry]) if "cells" in entry else _foreground([entry])
    found = ", ".join(facts).removeprefix("mean ")
    return f"{key}: {found}, {sum(entry['seconds'].values()):.2f} s"


def _answered(entries: Entries) -> dict[str, Entry]:
    return {key: entry for key, entry in entries.items() if entry["status"] in (DONE, SKIPPED)}


def _cells(answered: list[Entry]) -> list[str]:
    classes: Counter[str] = Counter()
    for entry in answered:
        classes.update(entry["classes"])
    by_class = ", ".join(f"{name} {number:,}" for name, number in classes.items())
    found = _number(sum(entry["cells"] for entry in answered), "cell")
    return [f"{found} ({by_class})" if len(classes) > 1 and classes.total() else found]


def _foreground(answered: list[Entry]) -> list[str]:
    covered = [entry["confluency"] for entry in answered]
    confluency = f"mean confluency {sum(covered) / len(covered):.1f} %"
    if len(covered) > 1:
        confluency += f" ({min(covered):.1f} to {max(covered):.1f})"
    nuclei = [entry["nuclei"] for entry in answered if entry["nuclei"] is not None]
    return [confluency, *([f"{sum(nuclei):,} nuclei"] if nuclei else [])]


def _in_all(answered: list[Entry], best_score: float | None) -> str:
    """Return a warning if all images have no cell, or all or nothing is their foreground."""
    if not answered:
        return ""
    number = len(answered)
    nowhere = "in the image" if number == 1 else f"in any of {number:,} images"
    everywhere = "in the image" if number == 1 else f"in all {number:,} images"
    if "cells" in answered[0]:
        if any(entry["cells"] for entry in answered):
            return ""
        seen = ""
        if best_score is not None:
            seen = f" (best score in the first {ASKED_AGAIN}: {best_score:.2g})"
        return (
            f"No cell was found {nowhere}, {_threshold(answered, 'score_threshold')}{seen}. Lower "
            "--score-threshold, or give the true diameter of the images' cells in pixels "
            "(--cell-diameter); if that finds none either, train on such images."
        )
    covered = [entry["confluency"] for entry in answered]
    if max(covered) < HARDLY_PERCENT:
        said, remedy = f"Nothing is foreground {nowhere}", "Lower"
    elif min(covered) > 100 - HARDLY_PERCENT:
        said, remedy = f"Everything is foreground {everywhere}", "Raise"
    else:
        return ""
    takes_white = WHITE_LEVEL_INPUT in PIPELINES[answered[0]["job"]["pipeline"]].inputs
    white = ", or tell the value of white (--white-level)" if takes_white else ""
    return (
        f"{said}, {_threshold(answered, 'probability_threshold')}. {remedy} "
        f"--probability-threshold{white}; if that changes nothing, train on such images."
    )


def _threshold(answered: list[Entry], name: str) -> str:
    return f"at {name.replace('_', ' ')} {answered[0][name]:.3g}"


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
