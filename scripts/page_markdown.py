"""Pieces of Markdown, for the pages that `pages.py` writes."""

from __future__ import annotations

import re

from lit_optim.reports.listing import ARXIV


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
