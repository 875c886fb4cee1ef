"""A report as one HTML file that needs no network: tables, figures, and what a pointer tells."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from lit_optim.errors import how_many
from lit_optim.results.axes import format_number
from lit_optim.results.best_run import find_best
from lit_optim.results.cells import choice_table, footnotes, name_row, name_run, numbered, run_table
from lit_optim.results.comparing import detailed
from lit_optim.results.data import Report, Row, Run
from lit_optim.results.figures import DRAWINGS, draw_figure, drawing, legend_name
from lit_optim.results.grouping import LR
from lit_optim.results.html import (
    draw_swatch,
    fill_page,
    list_cells,
    list_headings,
    list_notes,
    make_table,
    to_link,
    to_text,
)
from lit_optim.results.looks import COLORS, PAGE, style_of
from lit_optim.results.svg import Styles, write_svg
from lit_optim.runs.status import Status
from lit_optim.temporary import write_whole

#: What stands above the table of runs.
RUNS = """<h2>Runs <span id="shown" role="status"></span></h2>
<p class="hint">Filter by text, <code>&lt;0.5</code>, <code>&gt;=1e-3</code>,
<code>1..2</code> or <code>!word</code>.</p>
"""
#: Choices that are named as equal to the best.
MOST_NAMES = 4
ONE_RUN_EACH = "One run each: whether the others are worse is not known."


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


def make_page(
    report: Report, folder: Path | None, written: str = "", refresh: float | None = None
) -> str:
    """Return the text of the page.

    Args:
        report: what it shows.
        folder: of the page; None: it is shown apart from the runs, and does not link them.
        written: when, as the page says it.
        refresh: seconds after which an open page reads itself again.
    """
    styles = Styles()
    figures = _figures(report, styles)
    return fill_page(
        styles.css(),
        refresh,
        written,
        title=to_text(report.title),
        summary=_summary(report),
        best=_best(report, folder),
        kind="Choices",
        choices=_choices(report, folder),
        legend=_legend(report),
        figures=figures,
        runs=_runs(report, folder),
        notes=list_notes([*numbered(footnotes(report)), *report.notes]),
    )


def _summary(report: Report) -> str:
    better = "lower" if report.mode == "min" else "higher"
    counts = [(status, sum(run.status is status for run in report.runs)) for status in Status]
    counted = ", ".join(
        f'<span class="count" data-status="{status.value}">{count} {status.value}</span>'
        for status, count in counts
        if count
    )
    runs = how_many(len(report.runs), "run")
    of_all = f"{runs}: {counted}" if counted else "no runs yet"
    return f"<code>{to_text(report.metric)}</code>, {better} is better · {of_all}"


def _best(report: Report, folder: Path | None) -> str:
    if not report.rows or report.rows[0].rank is None:
        return ""
    best, rows = report.rows[0], detailed(report)
    table = choice_table(rows)
    value = ""
    for heading, cell in zip(table.header, table.rows[0], strict=True):
        if heading.name == report.metric:
            value = f'<span class="value">{to_text(cell.text)}</span>'
    tied = [row for row in rows.rows[1:] if row.rank == best.rank]
    names = ", ".join(to_text(name_row(rows, row)) for row in tied[:MOST_NAMES])
    if len(tied) > MOST_NAMES:
        names += f" and {len(tied) - MOST_NAMES} more"
    is_tested = best.best.value.count > 1
    told = f"Not distinguishable from {names}." if is_tested else ONE_RUN_EACH
    told = f'<p class="tied">{told}</p>' if tied else ""
    name = to_text(name_row(report, best) + _lr_of(report, best))
    run = find_best(best, report.mode)
    return (
        f'<section class="best"><p class="name"><span class="label">best</span>'
        f"{draw_swatch(style_of(0))}<b>{name}</b>{value}</p>"
        f"{told}{_command(run) if run else ''}</section>"
    )


def _lr_of(report: Report, row: Row) -> str:
    """Return the lr of the best setting, where it was swept and the name of the row lacks it."""
    if LR not in report.varied or math.isnan(row.best.lr):
        return ""
    return f" lr {format_number(row.best.lr)}"


def _choices(report: Report, folder: Path | None) -> str:
    is_whole = len(report.rows) > 1  # else figures show all of them in one color
    report = detailed(report)
    table = choice_table(report)
    more = ("best run", "The directory of the best run of the best setting, and its command.")
    body = []
    for place, (row, cells) in enumerate(zip(report.rows, table.rows, strict=True)):
        run = find_best(row, report.mode)
        label = f"{to_text(name_row(report, row))}: show only its runs"
        swatch = draw_swatch(style_of(place if is_whole else 0))
        first = (
            f'<button type="button" class="only" data-only="{place}" aria-pressed="false" '
            f'title="{label}">{swatch}<span class="sr">{label}</span></button>'
        )
        found = f"{_anchor(run, report, folder)} {_copy(run)}" if run else "-"
        last = f'<td class="last">{found}</td>'
        name = to_text(name_row(report, row))
        body.append(
            f'<tr id="row-{place}" data-row="{place}" data-name="{name}">'
            f"<td>{first}</td>{''.join(list_cells(cells, table))}{last}</tr>"
        )
    return make_table(
        "choices", "Choices, best first", [("", ""), *list_headings(table), more], body
    )


def _runs(report: Report, folder: Path | None) -> str:
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
        message = f'<span class="message">{to_text(run.message)}</span>' if run.message else ""
        body.append(
            f'<tr id="run-{place}" data-run="{place}"{row} data-status="{run.status.value}"'
            f' data-name="{to_text(name_run(report, run))}"{unfinished} tabindex="-1">'
            f'<th scope="row">{_anchor(run, report, folder)}{message}</th>'
            f"{''.join(list_cells(cells, table))}<td>{_command(run)}</td></tr>"
        )
    first = ("run", "Its directory.")
    last = ("command", "What reproduces it.")
    return RUNS + make_table("runs", "Runs", [first, *list_headings(table), last], body)


def _anchor(run: Run, report: Report, folder: Path | None) -> str:
    name = to_text(name_run(report, run)) or to_text(run.directory.name)
    if folder is None:
        return name
    where = to_text(run.directory)
    return f'<a href="{to_text(to_link(run.directory, folder))}" title="{where}">{name}</a>'


def _copy(run: Run, is_shown: bool = False) -> str:
    """A button that copies the command of a run; where it is not shown beside it, it tells it."""
    if not run.command:
        return ""
    command = to_text(run.command)
    title = "copy" if is_shown else f"copy: {command}"
    return (
        f'<button type="button" class="copy" data-command="{command}" title="{title}">'
        '<span class="sr">copy the command</span></button>'
    )


def _command(run: Run) -> str:
    if not run.command:
        return ""
    return (
        f'<div class="command">{_copy(run, is_shown=True)}<code>{to_text(run.command)}</code></div>'
    )


def _legend(report: Report) -> str:
    if len(report.rows) < 2:
        return ""
    items = [
        f'<button type="button" data-row="{place}" data-only="{place}" aria-pressed="false">'
        f"{draw_swatch(style_of(place))}{to_text(legend_name(report, row))}</button>"
        for place, row in enumerate(report.rows[: len(COLORS)])
    ]
    others = len(report.rows) - len(COLORS)
    if others > 0:
        items.append(f"<span>{draw_swatch(style_of(len(COLORS)))}{others} others</span>")
    return f'<div class="legend" role="group" aria-label="Choices">{"".join(items)}</div>'


def _figures(report: Report, styles: Styles) -> str:
    cards, missing, narrow = [], [], 0
    for kind in DRAWINGS:
        why = kind.miss(report)
        if why:
            missing.append(f"<li><b>{kind.title}</b> needs {to_text(why)}.</li>")
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
