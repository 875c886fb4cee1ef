"""Draw docs/schedules.png: every schedule over 1,000 updates, with the code used in training.

    python scripts/plot_schedules.py

Schedules have their defaults, except those in SHOWN_SETTINGS. For schedules that respond to a
metric, the metric improves until update 400 and then stays constant.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lit_optim.config.places import groups
from lit_optim.reports.lr_plan import LrPlan, plan_lr
from lit_optim.reports.lr_plot import draw_curve

PICTURE = Path(__file__).parent.parent / "docs" / "schedules.png"
STEPS = 1000
#: Settings for schedules whose defaults, as in torch, would end after a few updates.
SHOWN_SETTINGS = {
    "ConstantLR": ["scheduler.total_iters=40%"],
    "LinearLR": ["scheduler.total_iters=40%"],
    "PolynomialLR": ["scheduler.total_iters=80%"],
    "CyclicLR": ["scheduler.step_size_up=10%"],
    "phases": [
        "scheduler.phases=[{shape: linear, from: 0, to: 1, for: 10%},"
        "{shape: cosine, to: 0.4, for: 30%}, {shape: constant}, {shape: square, to: 0, for: 25%}]"
    ],
}
COLUMNS = 7
EVERY, PLATEAU = 10, 400  # updates between two validations, and when the metric stops improving


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE)
    parser.add_argument("--schedules", help="comma-separated names; default: all")
    args = parser.parse_args()
    names = [name for name in groups()["scheduler"] if name != "none"]
    if args.schedules:
        names = [name for name in names if name in args.schedules.split(",")]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(1.75 * COLUMNS, 1.15 * rows), layout="constrained", dpi=90)
    panels = list(figure.subplots(rows, COLUMNS, sharex=True, sharey=True).flat)
    for name, axes in zip(names, panels, strict=False):
        lines = [f"scheduler={name}", f"trainer.max_steps={STEPS}", "optimizer.lr=1"]
        (plan,) = plan_lr(lines + SHOWN_SETTINGS.get(name, []))
        draw(axes, plan)
        axes.set_title(name, fontsize=7, pad=2)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylim(-0.05, 1.1)
    for axes in panels[len(names) :]:
        axes.axis("off")
    figure.savefig(args.picture)


def draw(axes: Any, plan: LrPlan) -> None:
    """Draw one panel."""
    curve = plan.curve
    if curve is None or curve.metric is None:
        draw_curve(axes, plan)
        return
    values = []
    for t in range(plan.steps):
        values.append(plan.at(t))
        if t % EVERY == 0:
            curve.observe(1.0 - min(t, PLATEAU) / plan.steps)
    axes.plot([value / max(values) for value in values])


if __name__ == "__main__":
    main()
