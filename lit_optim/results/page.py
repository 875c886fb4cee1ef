"""A report as one HTML file that needs no network: tables, figures, and what a pointer tells."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape as escape_html
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from lit_optim.errors import escape
from lit_optim.results.axes import format_number
from lit_optim.results.best_run import find_best
from lit_optim.results.cells import Cell, Table, choice_table, name_row, name_run, run_table
from lit_optim.results.comparing import detailed
from lit_optim.results.data import Report, Row, Run
from lit_optim.results.figures import DRAWINGS, draw_figure, drawing, legend_name
from lit_optim.results.grouping import LR
from lit_optim.results.looks import COLORS, PAGE, Style, style_of
from lit_optim.results.svg import Styles, write_svg
from lit_optim.runs.status import Status
from lit_optim.temporary import write_whole

ASSETS = Path(__file__).parent / "assets"
#: Choices that are named as equal to the best.
MOST_NAMES = 4


def write_page(report: Report, path: Path, refresh: float | None = None) -> None:
    """Write a report as an HTML page, atomically: who has it open sees the old one or the new.

    Args:
        report: what it shows.
        path: of the file; links to the directories of runs are relative to it.
        refresh: seconds after which an open page reads itself again.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now().astimezone()
    write_whole(path, make_page(report, path.parent, now.strftime("%Y-%m-%d %H:%M"), refresh))


def make_page(report: Report, folder: Path, written: str = "", refresh: float | None = None) -> str:
    """Return the text of the page.

    Args:
        report: what it shows.
        folder: of the page.
        written: when, as the page says it.
        refresh: seconds after which an open page reads itself again.
    """
    styles = Styles()
    figures = _figures(report, styles)
    css = _read("page.css") + styles.css() + "\n"
    script = _read("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_read("page.html")).substitute(
        policy=policy,
        title=_text(report.title),
        style=css,
        script=script,
        refresh="" if refresh is None else f' data-refresh="{refresh:g}"',
        summary=_summary(report),
        best=_best(report, folder),
        choices=_choices(report, folder),
        legend=_legend(report),
        figures=figures,
        runs=_runs(report, folder),
        notes=_notes(report),
        written=f"Written {_text(written)} by" if written else "Written by",
    )


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _text(value: object) -> str:
    """Return text for a page: names of runs may hold anything."""
    return escape_html(escape(str(value)))


def _link(directory: Path, folder: Path) -> str:
    """Return the address of a directory relative to that of the page, if that is possible."""
    try:
        relative = os.path.relpath(directory, folder)
    except ValueError:  # another drive
        return directory.absolute().as_uri() + "/"
    return "./" + quote(Path(relative).as_posix(), safe="/=,.") + "/"


def _summary(report: Report) -> str:
    better = "lower" if report.mode == "min" else "higher"
    counts = [(status, sum(run.status is status for run in report.runs)) for status in Status]
    counted = ", ".join(
        f'<span class="count" data-status="{status.value}">{count} {status.value}</span>'
        for status, count in counts
        if count
    )
    runs = f"{len(report.runs)} run{'s' * (len(report.runs) != 1)}"
    of_all = f"{runs}: {counted}" if counted else "no runs yet"
    return f"<code>{_text(report.metric)}</code>, {better} is better · {of_all}"


def _best(report: Report, folder: Path) -> str:
    if not report.rows or report.rows[0].rank is None:
        return ""
    best, rows = report.rows[0], detailed(report)
    table = choice_table(rows)
    value = ""
    for heading, cell in zip(table.header, table.rows[0], strict=True):
        if heading.name == report.metric:
            value = f'<span class="value">{_text(cell.text)}</span>'
    tied = [row for row in rows.rows[1:] if row.rank == best.rank]
    names = ", ".join(_text(name_row(rows, row)) for row in tied[:MOST_NAMES])
    if len(tied) > MOST_NAMES:
        names += f" and {len(tied) - MOST_NAMES} more"
    told = f'<p class="tied">Not told apart from {names}.</p>' if tied else ""
    name = _text(name_row(report, best) + _lr_of(report, best))
    run = find_best(best, report.mode)
    return (
        f'<section class="best"><p class="name"><span class="label">best</span>'
        f"{_swatch(style_of(0))}<b>{name}</b>{value}</p>"
        f"{told}{_command(run) if run else ''}</section>"
    )


def _lr_of(report: Report, row: Row) -> str:
    """Return the lr of the best setting, where it was swept and the name of the row lacks it."""
    if LR not in report.varied or math.isnan(row.best.lr):
        return ""
    return f" lr {format_number(row.best.lr)}"


def _choices(report: Report, folder: Path) -> str:
    is_whole = len(report.rows) > 1  # else figures show all of them in one color
    report = detailed(report)
    table = choice_table(report)
    more = ("best run", "The directory of the best run of the best setting, and its command.")
    body = []
    for place, (row, cells) in enumerate(zip(report.rows, table.rows, strict=True)):
        run = find_best(row, report.mode)
        label = f"{_text(name_row(report, row))}: show only its runs"
        swatch = _swatch(style_of(place if is_whole else 0))
        first = (
            f'<button type="button" class="only" data-only="{place}" aria-pressed="false" '
            f'title="{label}">{swatch}<span class="sr">{label}</span></button>'
        )
        found = f"{_anchor(run, report, folder)} {_copy(run)}" if run else "-"
        last = f'<td class="last">{found}</td>'
        name = _text(name_row(report, row))
        body.append(
            f'<tr id="row-{place}" data-row="{place}" data-name="{name}">'
            f"<td>{first}</td>{''.join(_cells(cells, table))}{last}</tr>"
        )
    return _table("choices", "Choices, best first", [("", ""), *_headings(table), more], body)


def _runs(report: Report, folder: Path) -> str:
    table = run_table(report)
    of_row = {
        run.directory: place
        for place, row in enumerate(detailed(report).rows)
        for setting in row.groups
        for run in setting.runs
    }
    body = []
    for place, (run, cells) in enumerate(zip(report.runs, table.rows, strict=True)):
        row = f' data-row="{of_row[run.directory]}"' if run.directory in of_row else ""
        unfinished = ' class="unfinished"' if run.status.is_unfinished else ""
        message = f'<span class="message">{_text(run.message)}</span>' if run.message else ""
        body.append(
            f'<tr id="run-{place}" data-run="{place}"{row} data-status="{run.status.value}"'
            f' data-name="{_text(name_run(report, run))}"{unfinished} tabindex="-1">'
            f'<th scope="row">{_anchor(run, report, folder)}{message}</th>'
            f"{''.join(_cells(cells, table))}<td>{_command(run)}</td></tr>"
        )
    first = ("run", "Its directory.")
    last = ("command", "What reproduces it.")
    return _table("runs", "Runs", [first, *_headings(table), last], body)


def _headings(table: Table) -> list[tuple[str, str]]:
    return [(heading.name, heading.meaning) for heading in table.header]


def _table(
    name: str, caption: str, headings: Sequence[tuple[str, str]], body: Sequence[str]
) -> str:
    head, filters = [], []
    for title, meaning in headings:
        if not title:
            head.append("<td></td>")
            filters.append("<td></td>")
            continue
        about = f' title="{_text(meaning)}"' if meaning else ""
        head.append(f'<th scope="col"{about}><button type="button">{_text(title)}</button></th>')
        label = _text(f"filter {title}")
        filters.append(
            f'<td><input type="search" size="1" aria-label="{label}" placeholder="filter"></td>'
        )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table id="{name}"><caption class="sr">{caption}</caption><thead>'
        f'<tr class="head">{"".join(head)}</tr><tr class="filters">{"".join(filters)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cells(cells: Sequence[Cell], table: Table) -> Iterator[str]:
    for cell, heading in zip(cells, table.header, strict=True):
        value = cell.value
        classes = "number" if heading.is_number else "text"
        if heading.name == "status":
            yield f'<td><span class="status">{_text(cell.text)}</span></td>'
            continue
        shown = ""
        if isinstance(value, int | float) and value == value:
            number = {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, repr(value))
            shown = f' data-value="{number}"'
        elif isinstance(value, str):
            shown = f' data-value="{_text(value)}"'
        elif value is not None:
            shown = ' data-value=""'  # NaN
        yield f'<td class="{classes}"{shown}>{_text(cell.text)}</td>'


def _anchor(run: Run, report: Report, folder: Path) -> str:
    name = _text(name_run(report, run)) or _text(run.directory.name)
    where = _text(run.directory)
    return f'<a href="{_text(_link(run.directory, folder))}" title="{where}">{name}</a>'


def _copy(run: Run) -> str:
    if not run.command:
        return ""
    command = _text(run.command)
    return (
        f'<button type="button" class="copy" data-command="{command}" title="copy: {command}">'
        '<span class="sr">copy the command</span></button>'
    )


def _command(run: Run) -> str:
    if not run.command:
        return ""
    return f'<div class="command">{_copy(run)}<code>{_text(run.command)}</code></div>'


def _legend(report: Report) -> str:
    if len(report.rows) < 2:
        return ""
    items = [
        f'<button type="button" data-row="{place}" data-only="{place}" aria-pressed="false">'
        f"{_swatch(style_of(place))}{_text(legend_name(report, row))}</button>"
        for place, row in enumerate(report.rows[: len(COLORS)])
    ]
    others = len(report.rows) - len(COLORS)
    if others > 0:
        items.append(f"<span>{_swatch(style_of(len(COLORS)))}{others} others</span>")
    return f'<div class="legend" role="group" aria-label="Choices">{"".join(items)}</div>'


def _swatch(style: Style) -> str:
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


def _figures(report: Report, styles: Styles) -> str:
    cards, missing, narrow = [], [], 0
    for kind in DRAWINGS:
        why = kind.miss(report)
        if why:
            missing.append(f"<li><b>{kind.title}</b> needs {_text(why)}.</li>")
            continue
        with drawing(PAGE):
            figure = draw_figure([kind], report, PAGE)
            svg = write_svg(figure, kind.name, f"{kind.title}. {kind.meaning}", styles)
        is_wide = kind.columns(report) > 1
        narrow += not is_wide
        cards.append(
            f'<figure class="card{" wide" * is_wide}" id="{kind.name}"><h3>{kind.title}</h3>'
            f'<div class="plot">{svg}</div><figcaption>{kind.meaning}</figcaption></figure>'
        )
    if missing:
        cards.append(f'<ul class="missing">{"".join(missing)}</ul>')
    three = " three" if narrow == 3 else ""
    return f'<div class="figures{three}">{"".join(cards)}</div>'


def _notes(report: Report) -> str:
    if not report.notes:
        return ""
    items = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>'
