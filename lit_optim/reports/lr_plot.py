"""Plots lr curves with the code used in training: in a terminal, as a picture or a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_optim.errors import UsageError, suggest
from lit_optim.reports.lr_plan import LrPlan
from lit_optim.streams import can_show

BARS = "▁▂▃▄▅▆▇█"
#: The same for an encoding without these characters.
ASCII_BARS = "_.-:=+*#"
#: Points of a curve in a picture, besides its milestones.
POINTS = 1000
#: The most milestones on a line.
FEW = 8
#: A larger relative change from one update to the next is a jump.
JUMP = 0.4
ENDINGS = (".png", ".svg", ".csv")


def draw_in_terminal(plans: Sequence[LrPlan], width: int) -> str:
    """Draw each plan as a line of bars, on one scale, with its milestones below.

    The last lines say where the lr comes from, unless it was typed.

    Args:
        plans: at least one.
        width: of the terminal, in characters.
    """
    names = max(len(plan.name) for plan in plans)
    bars = max(10, width - names - 2)
    samples = [[plan.at(t) for t in _middles(plan.steps, bars)] for plan in plans]
    top = max(max(values) for values in samples)
    lines = []
    for plan, values in zip(plans, samples, strict=True):
        lines.append(f"{plan.name:<{names}}  {sparkline(values, top)}")
        for label, text in _describe_milestones(plan):
            lines.append(f"{label:<{names}}  {text}".rstrip())
    notes = dict.fromkeys(plan.lr_note for plan in plans if plan.lr_note)
    lines += [f"{'':<{names}}  {note}" for note in notes]
    return "\n".join(lines)


def sparkline(values: Sequence[float], top: float) -> str:
    """A bar for each value, between 0 and `top`."""
    bars = BARS if can_show(BARS) else ASCII_BARS
    last = len(bars) - 1
    heights = [min(last, round(last * value / top)) if top > 0 else 0 for value in values]
    return "".join(bars[height] for height in heights)


def _middles(steps: int, count: int) -> list[int]:
    """The updates in the middle of `count` equal parts of a run."""
    return [min(steps - 1, int((k + 0.5) * steps / count)) for k in range(count)]


def _describe_milestones(plan: LrPlan) -> list[tuple[str, str]]:
    """The lines below the bars."""
    milestones = [("", _at(notable_updates(plan.at, plan.milestones()), plan.at))]
    if plan.curve is None:
        return milestones
    for name, other in plan.curve.hyperparameter_curves.items():
        marks = [mark for mark in other.milestones() if mark < plan.steps]
        milestones.append(("", f"{name}: {_at(notable_updates(other, marks), other)}"))
    if plan.curve.metric is not None:
        milestones.append(("", "unless its metric changes it"))
    return milestones


def _at(marks: Sequence[int], value: Callable[[int], float]) -> str:
    # NaN: a part of a sequence does not change the momentum
    parts = [f"{mark}: {value(mark):.3g}" for mark in marks if not math.isnan(value(mark))]
    if len(parts) > FEW:
        parts = [*parts[: FEW - 1], "...", parts[-1]]
    return "   ".join(parts)


def notable_updates(value: Callable[[int], float], marks: Sequence[int]) -> list[int]:
    """Choose, of the updates at which a phase begins or ends, those to print.

    Of two in a row the second one is printed only if the value jumps there; then the first one is
    not, if the value has been constant since the last printed one.
    """
    first, *others = marks
    kept = [first]
    for mark in others:
        before, now = value(mark - 1), value(mark)
        jump = abs(now - before) > JUMP * max(abs(now), abs(before))
        if mark - 1 in marks and not jump and mark != marks[-1]:
            continue
        flat = len(kept) > 1 and math.isclose(value(kept[-1]), value(kept[-2]), rel_tol=1e-9)
        if jump and flat and kept[-1] == mark - 1:
            kept.pop()
        kept.append(mark)
    return kept


def check_ending(path: Path) -> None:
    """Refuse a file of a kind that cannot be written.

    Raises:
        UsageError: its ending is unknown, or matplotlib is not installed.
    """
    if path.suffix not in ENDINGS:
        near = suggest(path.suffix, ENDINGS)
        raise UsageError(f"--to {path} must end in {', '.join(ENDINGS)}{near}")
    if path.suffix != ".csv" and find_spec("matplotlib") is None:
        raise UsageError(f"--to {path} needs matplotlib: pip install matplotlib, or write a .csv")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--to {path}: no such directory: {path.parent}")


def write_file(plans: Sequence[LrPlan], path: Path) -> None:
    """Write a picture of all plans, or a table with a row for each update."""
    if path.suffix == ".csv":
        _write_table(plans, path)
    else:
        _draw(plans, path)


def _curves(plans: Sequence[LrPlan]) -> list[tuple[str, str, LrPlan, Callable[[int], float]]]:
    """Each plan's lr and scheduled hyperparameters: what it is, the name, the plan, the values."""
    found: list[tuple[str, str, LrPlan, Callable[[int], float]]] = []
    for plan in plans:
        found.append(("lr", plan.name, plan, plan.at))
        others = {} if plan.curve is None else plan.curve.hyperparameter_curves
        found += [(what, plan.name, plan, other) for what, other in others.items()]
    return found


def _write_table(plans: Sequence[LrPlan], path: Path) -> None:
    curves = _curves(plans)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", *(f"{what} {name}" for what, name, _, _ in curves)])
        for t in range(max(plan.steps for plan in plans)):
            table.writerow([t, *(value(t) if t < p.steps else "" for _, _, p, value in curves)])


def _draw(plans: Sequence[LrPlan], path: Path) -> None:
    from matplotlib.figure import Figure

    curves = _curves(plans)
    panels = list(dict.fromkeys(what for what, _, _, _ in curves))
    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    axes = dict(zip(panels, figure.subplots(len(panels), squeeze=False)[:, 0], strict=True))
    for what, name, plan, value in curves:
        draw_curve(axes[what], plan, value, label=name)
    for what, panel in axes.items():
        panel.set_ylabel(what)
        panel.set_xlabel("update")
        panel.legend()
    figure.savefig(path)


def draw_curve(
    axes: Any, plan: LrPlan, value: Callable[[int], float] | None = None, **style: Any
) -> None:
    """Draw one curve into matplotlib's axes, including its corners."""
    value = plan.at if value is None else value
    every = max(1, plan.steps // POINTS)
    steps = sorted({*range(0, plan.steps, every), *plan.milestones(), plan.steps - 1})
    axes.plot(steps, [value(t) for t in steps], **style)
