"""Writes a page of sections as Markdown, and as one HTML file that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from benchmarks.bounds import Verdict, verdicts_table
from benchmarks.report.drawing import Plot

STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Section:
    """One part of the page; empty fields are left out."""

    title: str
    text: str = ""
    """Introduction as Markdown."""
    verdicts: Sequence[Verdict] = ()
    plots: Sequence[Plot] = ()
    tables: str = ""
    """Tables as Markdown, with headings of any level."""
    command: str = ""
    """Command that made, or makes, the figures."""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    lead: str
    facts: Mapping[str, str]
    """Time, machine and source commit of the report."""
    sections: Sequence[Section]


def markdown_page(page: Page, with_plots: bool = False) -> str:
    """Return the page as Markdown, by default without plots: the tables have their figures."""
    parts = [
        f"# {page.title}",
        page.lead,
        "\n".join(f"- {name}: {value}" for name, value in page.facts.items()),
    ]
    for section in page.sections:
        parts += [
            f"## {section.title}",
            section.text,
            verdicts_table(section.verdicts) if section.verdicts else "",
            *(map(_image, section.plots) if with_plots else ()),
            _below_sections(section.tables).strip(),
            _made_by(section),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def html_page(page: Page) -> str:
    """Return the page as HTML, which contains style and plots and fetches nothing."""
    # The parser rejects HTML inside the Markdown.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.validateLink = lambda url: url.startswith(("http", "#", "data:image/svg+xml;base64,"))  # type: ignore[method-assign]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(page.title)}</title>\n"
        f'<link rel="icon" href="data:,">\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>\n'
        f"{parser.render(markdown_page(page, with_plots=True))}</body>\n</html>\n"
    )


def _image(plot: Plot) -> str:
    data = base64.b64encode(plot.svg).decode()
    return f"**{plot.title}**\n\n![{plot.title}](data:image/svg+xml;base64,{data})"


def _made_by(section: Section) -> str:
    if not section.command:
        return ""
    said = "Made by" if section.tables else "Not measured yet. This makes it:"
    return f"{said} `{section.command}`."


def _below_sections(markdown: str) -> str:
    """Lower the headings of a table's page to at least the third level."""
    return re.sub(r"^#{1,3} ", "### ", markdown, flags=re.MULTILINE)
