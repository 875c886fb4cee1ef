"""What pages are made of: text, tables and links, of which none is trusted."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from html import escape as escape_html
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from lit_optim.errors import escape
from lit_optim.results.cells import Cell, Table
from lit_optim.results.looks import COLORS, Style

ASSETS = Path(__file__).parent / "assets"


def fill_page(styles: str, refresh: float | None, written: str, **parts: str) -> str:
    """Return the text of a page that loads nothing and runs no script but its own.

    Args:
        styles: the rules of its figures.
        refresh: seconds after which an open page reads itself again; None: never.
        written: when, as the page says it; empty: it does not.
        parts: its title and what is shown, as HTML.
    """
    css = _read("page.css") + styles + "\n"
    script = _read("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_read("page.html")).substitute(
        policy=policy,
        style=css,
        script=script,
        refresh="" if refresh is None else f' data-refresh="{refresh:g}"',
        written=f"Written {to_text(written)} by" if written else "Written by",
        **parts,
    )


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def to_text(value: object) -> str:
    """Return text for a page: names of runs may hold anything."""
    return escape_html(escape(str(value)))


def to_link(directory: Path, folder: Path) -> str:
    """Return the address of a directory relative to that of the page, if that is possible."""
    try:
        relative = os.path.relpath(directory, folder)
    except ValueError:  # another drive
        return directory.absolute().as_uri() + "/"
    return "./" + quote(Path(relative).as_posix(), safe="/=,.") + "/"


def list_headings(table: Table) -> list[tuple[str, str]]:
    """Return the names of a table's columns, and what they mean."""
    return [(heading.name, heading.meaning) for heading in table.header]


def make_table(
    name: str, caption: str, headings: Sequence[tuple[str, str]], body: Sequence[str]
) -> str:
    """Return a table that can be sorted and filtered.

    Args:
        name: its id.
        caption: for those who do not see it.
        headings: as of `list_headings`; a column without a name has neither.
        body: its rows, as HTML.
    """
    head, filters = [], []
    for title, meaning in headings:
        if not title:
            head.append("<td></td>")
            filters.append("<td></td>")
            continue
        about = f' title="{to_text(meaning)}"' if meaning else ""
        head.append(f'<th scope="col"{about}><button type="button">{to_text(title)}</button></th>')
        label = to_text(f"filter {title}")
        filters.append(
            f'<td><input type="search" size="1" aria-label="{label}" placeholder="filter"></td>'
        )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table id="{name}"><caption class="sr">{caption}</caption><thead>'
        f'<tr class="head">{"".join(head)}</tr><tr class="filters">{"".join(filters)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def list_cells(cells: Sequence[Cell], table: Table) -> Iterator[str]:
    """Return the cells of a row, with the values by which they are sorted."""
    for cell, heading in zip(cells, table.header, strict=True):
        value = cell.value
        classes = "number" if heading.is_number else "text"
        if heading.name == "status":
            yield f'<td><span class="status">{to_text(cell.text)}</span></td>'
            continue
        shown = ""
        if isinstance(value, int | float) and value == value:
            number = {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, repr(value))
            shown = f' data-value="{number}"'
        elif isinstance(value, str):
            shown = f' data-value="{to_text(value)}"'
        elif value is not None:
            shown = ' data-value=""'  # NaN
        yield f'<td class="{classes}"{shown}>{to_text(cell.text)}</td>'


def draw_swatch(style: Style) -> str:
    """Return a line and a marker in the style of a row."""
    from matplotlib.markers import MarkerStyle

    color = f"c{COLORS.index(style.color)}" if style.is_shown else "others"
    marker = MarkerStyle(style.marker)
    shape: Any = marker.get_transform().transform_path(marker.get_path())
    scale = 9.0 if style.marker == "." else 7.5
    points = " ".join(
        f"{14 + scale * x:.1f},{6 - scale * y:.1f}" for x, y in shape.to_polygons()[0]
    )
    dashes = "" if style.dashes == "-" else " ".join(f"{2 * part:g}" for part in style.dashes[1])
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path d="M0 6H28" stroke="var(--{color})"{dashed}></path>'
        f'<polygon points="{points}" fill="var(--{color})"></polygon></svg>'
    )


def list_notes(notes: Sequence[str]) -> str:
    """Return the section of the notes; empty without any."""
    if not notes:
        return ""
    items = "".join(f"<li>{to_text(note)}</li>" for note in notes)
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>'
