"""Texts and docstrings as Markdown, for the pages that `pages.py` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lit_optim.reports.listing import ARXIV, Entry


def join(parts: list[str]) -> str:
    """Parts with empty lines between them."""
    return "\n\n".join(part for part in parts if part) + "\n"


def paragraph(text: str) -> str:
    """Text on one line."""
    return escape(" ".join(text.split()))


def escape(text: str) -> str:
    """Text in which Markdown sees no emphasis and no tags."""
    return re.sub(r"(?<!`)([*<])", r"\\\1", text)


def sentence(text: str) -> str:
    """A headline as a sentence."""
    text = escape(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def code(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def dedent(text: str) -> str:
    """An indented paragraph of a docstring without the margin."""
    lines = text.rstrip().splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", r"\|").replace("*", r"\*")


def link(text: str) -> str:
    """The numbers of arXiv as links."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def lead(entry: Entry) -> str:
    """The headline as a sentence, or the docstring's first paragraph if it begins with it."""
    first = paragraph(entry.explained.split("\n\n")[0])
    headline = sentence(entry.headline)
    return first if first.startswith(headline.rstrip(".")) else headline


def explained_lead(entry: Entry) -> str:
    """The first paragraph of the docstring; if there is none, the headline as a sentence."""
    return paragraph(entry.explained.split("\n\n")[0]) or sentence(entry.headline)


def explain(entry: Entry, skip_first: bool = False) -> Iterator[str]:
    """The docstring as Markdown: formulas as code blocks, and links to sources.

    Args:
        entry: the choice.
        skip_first: leave out the first paragraph, which stands elsewhere.
    """
    first, *others = entry.explained.split("\n\n")
    if not skip_first and lead(entry) != paragraph(first):
        yield paragraph(first)
    has_source = bool(others) and not others[0].startswith(" ")
    for part in others[has_source:]:
        yield code(dedent(part)) if part.startswith(" ") else escape(part)
    if has_source:
        yield f"Source: {link(paragraph(others[0]))}"
