"""A page of sections as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from benchmarks.bounds import Verdict, verdicts_table
from benchmarks.report.drawing import Plot

TEMPLATES = Path(__file__).parent

NUMBER = re.compile(r"\**(nan|[~<>=+-]*\s*\(?\d[\d.,:%x/()\s+-]*)( ?[kMG]?(B|s|ms|px))?\**")
"""A table's cell that is read by its digits, and so stands on the right."""


@dataclass(frozen=True)
class Section:
    """One part of the page; what it lacks is left out."""

    id: str
    """Of its heading, for links."""
    title: str
    text: str = ""
    """Markdown, in front of all else."""
    verdicts: Sequence[Verdict] = ()
    plots: Sequence[Plot] = ()
    tables: str = ""
    """Markdown, with headings of any level."""
    command: str = ""
    """What made, or makes, its figures."""


@dataclass(frozen=True)
class Page:
    """All that is shown."""

    title: str
    lead: str
    facts: Mapping[str, str]
    """When, where and of which source."""
    sections: Sequence[Section]


def html_page(page: Page) -> str:
    """The page as HTML: styles and pictures are inside, nothing is fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = _html_of
    environment.filters["inline"] = _inline_html_of
    style = Markup((TEMPLATES / "page.css").read_text().rstrip())  # noqa: S704  # a file of ours
    return environment.get_template("page.html").render(page=page, style=style)


def markdown_page(page: Page) -> str:
    """The page as Markdown, without its plots: their figures are in the tables."""
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
            _below_sections(section.tables).strip(),
            _made_by(section),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _made_by(section: Section) -> str:
    if not section.command:
        return ""
    said = "Made by" if section.tables else "Not measured yet. This makes it:"
    return f"{said} `{section.command}`."


def _below_sections(markdown: str) -> str:
    """Headings of a table's page become at least of the third level."""
    return re.sub(r"^#{1,3} ", "### ", markdown, flags=re.MULTILINE)


def _parser() -> MarkdownIt:
    """A parser that lets no HTML through."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _inline_html_of(markdown: str) -> Markup:
    return Markup(_parser().renderInline(markdown))  # noqa: S704


def _html_of(markdown: str) -> Markup:
    parser = _parser()
    tokens = parser.parse(_below_sections(markdown))
    heading = "Figures"
    for token, inside in zip(tokens, [*tokens[1:], Token("end", "", 0)], strict=True):
        if token.type == "heading_open":
            heading = inside.content
        elif token.type == "table_open":
            token.meta["label"] = heading
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "td_open" and NUMBER.fullmatch(inside.content):
            token.attrSet("class", "number")
        elif token.type == "paragraph_open" and inside.content.startswith("Machine: "):
            token.attrSet("class", "machine")
    _align_heads(tokens)
    # Tables wider than a phone scroll on their own, by finger or keyboard.
    parser.add_render_rule("table_open", _open_table)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704


def _align_heads(tokens: Sequence[Token]) -> None:
    """Put the heads of columns that begin with a number above it."""
    heads: list[Token] = []
    for token in tokens:
        if token.type == "table_open":
            heads = []
        elif token.type == "th_open":
            heads.append(token)
        elif token.type == "td_open" and heads:
            head = heads.pop(0)  # only the first row's cells meet one
            if token.attrGet("class"):
                head.attrSet("class", "number")


def _open_table(_: object, tokens: Sequence[Token], index: int, *__: object) -> str:
    label = Markup.escape(tokens[index].meta["label"])
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>\n'
