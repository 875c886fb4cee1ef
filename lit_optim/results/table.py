"""A report in the terminal."""

from __future__ import annotations

from lit_optim.errors import printable
from lit_optim.printing import Console, WholeTable
from lit_optim.results.cells import Heading, choice_table, footnotes, numbered
from lit_optim.results.comparing import detailed
from lit_optim.results.data import Report, Row, Tournament
from lit_optim.results.overview import standings

#: A longer heading is broken into two lines.
LONG = 12


def print_report(report: Report, console: Console) -> None:
    """Print the table of a report, best first, and its notes."""
    table(report).print(console)
    for note in (*numbered(footnotes(report)), *report.notes):
        console.print(printable(note), soft_wrap=True, markup=False, highlight=False, style="dim")


def print_tournament(tournament: Tournament, console: Console) -> None:
    """Print the table of each task, then who is best over all, and the notes."""
    for name, report in zip(tournament.names, tournament.tasks, strict=True):
        console.print(printable(name), soft_wrap=True, markup=False, style="bold")
        print_report(report, console)
    cells = standings(tournament)
    console.print(f"over all {len(tournament.tasks)} tasks", style="bold", highlight=False)
    header = [_broken(heading) for heading in cells.header]
    rows = [[cell.text for cell in row] for row in cells.rows]
    WholeTable(header, rows, cells.keys, [""] * len(rows)).print(console)
    for note in tournament.notes:
        console.print(printable(note), soft_wrap=True, markup=False, highlight=False, style="dim")


def table(report: Report) -> WholeTable:
    """The table of the choices; rows without a value are red."""
    report = detailed(report)
    cells = choice_table(report)
    header = [_broken(heading) for heading in cells.header]
    rows = [[cell.text for cell in row] for row in cells.rows]
    return WholeTable(header, rows, cells.keys, [_style(row) for row in report.rows])


def _broken(heading: Heading) -> str:
    """The name of a column in two lines, if it is long and has a blank."""
    name = printable(heading.name)
    if len(name) <= LONG or " " not in name:
        return name
    blanks = [at for at, sign in enumerate(name) if sign == " "]
    at = min(blanks, key=lambda at: abs(at - len(name) / 2))
    return f"{name[:at]}\n{name[at + 1 :]}"


def _style(row: Row) -> str:
    return "" if row.best.value.count or row.best.so_far.count else "red"
