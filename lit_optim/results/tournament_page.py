"""The page of a tournament of several tasks: who is best over all, and links to the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from lit_optim.errors import how_many
from lit_optim.results.cells import name_row
from lit_optim.results.data import Report, Tournament
from lit_optim.results.figures import HEIGHT, drawing
from lit_optim.results.html import (
    draw_swatch,
    fill_page,
    list_cells,
    list_headings,
    list_notes,
    make_table,
    to_text,
)
from lit_optim.results.looks import COLORS, PAGE, style_of
from lit_optim.results.overview import name_contestants, standings, task_files
from lit_optim.results.page import make_page
from lit_optim.results.profile_figure import draw_profile_figure
from lit_optim.results.svg import Styles, write_svg
from lit_optim.temporary import write_whole

#: Contestants that are named as best at a task.
MOST_NAMES = 4
TITLE = "Performance profile"
MEANING = (
    "The share of the tasks whose target a contestant reaches within a factor of the cost of the "
    "fastest there: high on the left is often the fastest, high on the right arrives in the end."
)


def write_tournament(
    tournament: Tournament, path: Path, refresh: float | None = None, is_apart: bool = False
) -> list[Path]:
    """Write the page of a tournament, and beside it one of each task, each atomically.

    Args:
        tournament: of several tasks.
        path: of the page.
        refresh: seconds after which an open page reads itself again.
        is_apart: whether the pages are shown apart from the runs, and do not link them.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
    """
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    files, folder = task_files(tournament, path), None if is_apart else path.parent
    for report, file in zip(tournament.tasks, files, strict=True):
        write_whole(file, make_page(report, folder, now, refresh))
    write_whole(path, make_tournament_page(tournament, files, now, refresh))
    return [path, *files]


def make_tournament_page(
    tournament: Tournament, files: Sequence[Path], written: str = "", refresh: float | None = None
) -> str:
    """Return the text of the page.

    Args:
        tournament: of several tasks.
        files: the pages of the tasks, beside it.
        written: when, as the page says it.
        refresh: seconds after which an open page reads itself again.
    """
    styles = Styles()
    figures = _figure(tournament, styles)
    tasks, runs = how_many(len(tournament.tasks), "task"), how_many(len(tournament.runs), "run")
    return fill_page(
        styles.css(),
        refresh,
        written,
        title=to_text(tournament.title),
        summary=f"a tournament of {tasks} · {runs}",
        best=_best(tournament),
        kind="Contestants",
        choices=_contestants(tournament),
        legend=_legend(tournament),
        figures=figures,
        runs=_tasks(tournament, files),
        notes=list_notes(tournament.notes),
    )


def _best(tournament: Tournament) -> str:
    profile = tournament.profile
    if profile is None:
        return ""
    first = profile.contestants[0]
    return (
        '<section class="best"><p class="name"><span class="label">highest score</span>'
        f"{draw_swatch(style_of(0))}<b>{to_text(first)}</b>"
        f'<span class="value">{profile.scores[first]:.3f}</span></p></section>'
    )


def _contestants(tournament: Tournament) -> str:
    table = standings(tournament)
    body = []
    for place, cells in enumerate(table.rows):
        body.append(
            f'<tr id="row-{place}" data-row="{place}" data-name="{to_text(cells[0].text)}">'
            f"<td>{draw_swatch(style_of(place))}</td>{''.join(list_cells(cells, table))}</tr>"
        )
    caption = "Contestants, best first"
    return make_table("choices", caption, [("", ""), *list_headings(table)], body)


def _legend(tournament: Tournament) -> str:
    names = tournament.profile.contestants if tournament.profile else ()
    items = [
        f'<span data-row="{place}">{draw_swatch(style_of(place))}{to_text(name)}</span>'
        for place, name in enumerate(names[: len(COLORS)])
    ]
    if others := len(names) - len(items):
        items.append(f"<span>{draw_swatch(style_of(len(COLORS)))}{others} others</span>")
    return f'<div class="legend" role="group" aria-label="Contestants">{"".join(items)}</div>'


def _figure(tournament: Tournament, styles: Styles) -> str:
    if tournament.profile is None:
        return (
            f'<div class="figures"><ul class="missing"><li><b>{TITLE}</b> needs a target that '
            "final runs reach at the tasks.</li></ul></div>"
        )
    with drawing(PAGE):
        figure = draw_profile_figure(tournament.profile, PAGE, HEIGHT)
        svg = write_svg(figure, "profile", f"{TITLE}. {MEANING}", styles)
    return (
        f'<div class="figures"><figure class="card" id="profile"><h3>{TITLE}</h3>'
        f'<div class="plot">{svg}</div><figcaption>{MEANING}</figcaption></figure></div>'
    )


def _tasks(tournament: Tournament, files: Sequence[Path]) -> str:
    body = []
    for name, report, file in zip(tournament.names, tournament.tasks, files, strict=True):
        sign = "≤" if report.mode == "min" else "≥"
        target = (
            f"{report.metric} {sign} {report.target:g}" if report.target == report.target else "-"
        )
        body.append(
            f'<tr><th scope="row"><a href="./{quote(file.name)}">{to_text(name)}</a></th>'
            f"<td>{to_text(_leaders(report))}</td><td>{to_text(target)}</td>"
            f'<td class="number">{len(report.runs)}</td></tr>'
        )
    headings = [
        ("task", "Its page."),
        ("best", "Those that share the first rank."),
        ("target", "What the performance profile counts to."),
        ("runs", ""),
    ]
    return "<h2>Tasks</h2>" + make_table("tasks", "Tasks", headings, body)


def _leaders(report: Report) -> str:
    names = [name_row(report, row) for row in report.rows if row.rank == 1]
    return name_contestants(names, MOST_NAMES) or "-"
