"""`lit-optim race`: run the optimizers, print a table, draw a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from rich.progress import Progress
from rich.table import Table

from lit_optim.errors import escape, how_many
from lit_optim.printing import Console
from lit_optim.race.landscapes import Landscape, Point
from lit_optim.race.lines import split_landscapes
from lit_optim.race.paths import LRS, TOLERANCE, Entrant, Path, find_entrants, follow_path
from lit_optim.race.picture import FRAMES, check_picture, write_picture


def race(
    lines: Sequence[str],
    console: Console,
    steps: int,
    start: Point | None = None,
    to: FilePath | None = None,
) -> list[Path]:
    """Run every combination of the overrides on every landscape and report the results.

    Args:
        lines: overrides as for train.py, and `on=rosenbrock,beale`.
        console: where the tables go; the progress bar is on stderr.
        steps: updates of each optimizer.
        start: where every path begins; None: the start of the landscape.
        to: a .gif, .png or .svg to write.

    Returns:
        the paths, landscape by landscape.

    Raises:
        UsageError: a mistake on the command line.
    """
    if to is not None:
        check_picture(to)
    landscapes, others = split_landscapes(lines)
    entrants = find_entrants(others, steps)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("racing", total=len(entrants) * len(landscapes))
        paths = []
        for landscape in landscapes:
            for entrant in entrants:
                paths.append(follow_path(entrant, landscape, start or landscape.start, steps))
                progress.advance(task)
        if to is not None:
            task = progress.add_task("drawing", total=FRAMES if to.suffix == ".gif" else None)
            write_picture(paths, to, lambda: progress.advance(task))
    for landscape in landscapes:
        own = [path for path in paths if path.landscape is landscape]
        heading = _heading(landscape, own[0], steps)
        console.print(heading, style="bold", markup=False, highlight=False)
        console.print(_make_table(own))
    for note in _notes(entrants, paths):
        console.print(escape(note), style="dim", markup=False, highlight=False, soft_wrap=True)
    return paths


def _heading(landscape: Landscape, path: Path, steps: int) -> str:
    x, y = path.points[0]
    return f"{landscape.name}: {landscape.formula}, {how_many(steps, 'step')} from ({x:g}, {y:g})"


def _make_table(paths: Sequence[Path]) -> Table:
    """A row for each path on one landscape, best first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    for column in ("lr", "final loss", "distance to a minimum", f"steps to {TOLERANCE:.1%}"):
        table.add_column(column, justify="right")
    for path in sorted(paths, key=lambda path: path.rank):
        lr = "-" if path.lr is None else f"{path.lr:g}"
        if path.has_diverged:
            table.add_row(path.name, lr, "diverged", "-", "-")
            continue
        arrival = "-" if path.arrival is None else str(path.arrival)
        distance = path.landscape.distance(path.points[-1])
        table.add_row(path.name, lr, f"{path.losses[-1]:.3g}", f"{distance:.2g}", arrival)
    return table


def _notes(entrants: Sequence[Entrant], paths: Sequence[Path]) -> list[str]:
    """What a reader needs to know about the table."""
    notes = []
    if any(path.tried > 1 for path in paths):
        notes.append(
            f"lr: the best of {len(LRS)} from {LRS[0]:g} to {LRS[-1]:g} whose path stays in the "
            "window; optimizer.lr=... sets it"
        )
    notes.append(
        f"steps to {TOLERANCE:.1%}: until the loss above the global minimum stays below that share "
        "of its initial value"
    )
    matrices = list(dict.fromkeys(x.name for x in entrants if "roles" in x.requirements))
    if matrices:
        notes.append(f"{', '.join(matrices)}: the two coordinates are one matrix, of shape [1, 2]")
    several = {path.name: path for path in paths if path.evaluations > len(path.points)}
    for name, path in several.items():
        average = path.evaluations / max(1, len(path.points) - 1)
        notes.append(f"{name}: {average:.2g} evaluations of the loss per step")
    return notes
