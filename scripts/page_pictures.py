"""Draw the pictures for `scripts/pages.py`, with the code used in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plot_schedules import SHOWN_SETTINGS, STEPS, draw
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_optim.param_groups import by_role, no_decay
from lit_optim.race.landscapes import LANDSCAPES
from lit_optim.race.paths import Entrant, find_entrants, follow_path
from lit_optim.race.paths import Path as RacePath
from lit_optim.race.picture import DPI, INK, draw_landscape, draw_trail, save, style_axes
from lit_optim.race.picture import write_picture as write_race
from lit_optim.reports.lr_plan import plan_lr
from lit_optim.tasks.classification import Digits
from lit_optim.tasks.classifiers import MLP

#: A narrow valley, and several minima.
PLACES = ("rosenbrock", "styblinski")
RACE_STEPS = 300
#: Shown in gray on every page, for comparison.
REFERENCE = "sgd"
COLOR, GRAY = "#d55e00", "#7c858d"
#: The training of a sweep: updates, samples in a batch, width of the MLP.
SWEEP_STEPS, BATCH, WIDTH = 200, 64, 32
#: Steps of optimizers that evaluate the loss about 20 times per step, on the whole training set.
FULL_BATCH_STEPS = 10
#: Two per decade. They include the usual lrs of every optimizer.
SWEEP_LRS = tuple(float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 3))
#: The range of losses shown: from that of a random guess down to BEST, or lower if needed.
WORST, BEST = 2.5, 2e-3
#: Overrides without which an optimizer has no lr.
SETTINGS = {"adafactor_hf": ["optimizer.relative_step=false", "optimizer.scale_parameter=false"]}
#: Optimizers of the race that the start page shows.
RACE = "sgd,momentum,adam,muon"


def new_figure(width: float, height: float) -> Any:
    """A figure of this size in inches, with a canvas."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def draw_race(file: Path) -> None:
    """Draw the race shown in the README."""
    entrants = find_entrants([f"optimizer={RACE}"], RACE_STEPS)
    landscape = LANDSCAPES["rosenbrock"]
    paths = [follow_path(one, landscape, landscape.start, RACE_STEPS) for one in entrants]
    write_race(paths, file)


@cache
def path_of(name: str, place: str) -> RacePath:
    """The path of an optimizer in a race."""
    [entrant] = find_entrants([f"optimizer={name}"], RACE_STEPS)
    landscape = LANDSCAPES[place]
    return follow_path(entrant, landscape, landscape.start, RACE_STEPS)


def draw_paths(name: str, file: Path) -> None:
    """Draw an optimizer's paths on both landscapes, with those of SGD in gray."""
    figure = new_figure(8.4, 3.2)
    for place, axes in zip(PLACES, figure.subplots(1, 2), strict=True):
        draw_landscape(axes, LANDSCAPES[place], INK)
        path = path_of(name, place)
        if name != REFERENCE:
            other = path_of(REFERENCE, place)
            draw_trail(axes, other, GRAY, "-")
            end = {"markeredgecolor": "white", "markersize": 7, "zorder": 6}
            axes.plot(*other.points[-1], "o", color=GRAY, **end)
        draw_trail(axes, path, COLOR, "-")
        axes.plot(*path.points[0], "o", color="#202428", markersize=5, zorder=4)
        end = {"markeredgecolor": "white", "markersize": 7, "zorder": 6}
        axes.plot(*path.points[-1], "o", color=COLOR, **end)
        lr = "its own step size" if path.lr is None else f"lr {path.lr:g}"
        axes.set_title(f"{place}, {lr}", color=INK, fontsize=9)
    save(figure, file)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The training set: 898 digits, and their classes."""
    data = Digits(val_share=0)
    data.setup("fit")
    train = data.train_set()
    x, y = train[list(range(len(train)))]
    return x, y


def draw_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batches for every optimizer."""
    x, y = digits()
    generator = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        yield x[chosen], y[chosen]


def train(entrant: Entrant, lr: float, bias: bool = True) -> float:
    """Train briefly at a constant lr and return the loss on the training set.

    Raises:
        ValueError: the optimizer does not take the lr, or the parameters.
    """
    torch.manual_seed(0)
    model = MLP(features=64, classes=10, width=WIDTH, bias=bias)
    groups = no_decay(model)
    optimizer = entrant.make(
        by_role(groups, model) if "roles" in entrant.requirements else groups, lr
    )
    is_sparse = "sparse" in entrant.requirements
    steps, batches = SWEEP_STEPS, draw_batches()
    if "closure" in entrant.requirements:  # mini-batch noise would spoil their curvature estimates
        steps, batches = FULL_BATCH_STEPS, repeat(digits())
    for _, (x, y) in zip(range(steps), batches, strict=False):
        loss = optimizer.step(make_closure(model, optimizer, x, y, is_sparse))
        if not math.isfinite(loss.item()):
            return math.inf
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    with torch.no_grad():
        x, y = digits()
        return float(cross_entropy(model(x), y))


def make_closure(
    model: MLP, optimizer: Any, x: Tensor, y: Tensor, is_sparse: bool
) -> Callable[[], Tensor]:
    """A closure that evaluates the loss of a batch and its gradient."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
        for p in model.parameters() if is_sparse else ():
            assert p.grad is not None
            p.grad = p.grad.to_sparse(1)
        return loss

    return closure


@cache
def sweep(name: str) -> dict[float, float]:
    """The loss for each lr; NaN if the training diverges."""
    [entrant] = find_entrants([f"optimizer={name}", *given_lr(name)], 1)
    losses = {}
    for lr in SWEEP_LRS:
        try:
            losses[lr] = train(entrant, lr, bias=name != "muon_torch")
        except (
            ValueError,
            RuntimeError,
        ):  # lr out of range, or a decomposition that fails on diverged weights
            continue
    return {lr: loss if loss < WORST else math.nan for lr, loss in losses.items()}


def given_lr(name: str) -> list[str]:
    """The overrides that give an optimizer an lr, if it has none by default."""
    return [*SETTINGS[name], "optimizer.lr=1e-3"] if name in SETTINGS else []


def draw_sweep(name: str, file: Path) -> None:
    """Draw the loss against the lr, with AdamW and SGD in gray."""
    figure = new_figure(6.4, 2.8)
    axes = figure.subplots()
    style_axes(axes, INK)
    for other, dashes in (("sgd", ":"), ("adamw", "--")):
        if other != name:
            losses = sweep(other)
            axes.plot(*zip(*losses.items(), strict=True), color=GRAY, linestyle=dashes, label=other)
    losses = sweep(name)
    axes.plot(*zip(*losses.items(), strict=True), "o-", color=COLOR, label=name, markersize=4)
    bottom = min(BEST, *(loss / 2 for loss in losses.values() if loss == loss))
    [entrant] = find_entrants([f"optimizer={name}"], 1)
    default = entrant.config["optimizer"].get("lr")
    if default is not None:
        axes.axvline(default, color=COLOR, linewidth=0.8, alpha=0.6)
        axes.annotate(f" default {default:g}", (default, bottom * 1.2), color=INK, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="lr", ylabel="training loss")
    axes.set(xlim=(SWEEP_LRS[0], SWEEP_LRS[-1]), ylim=(bottom, WORST))
    axes.legend(fontsize=8, labelcolor=INK, frameon=False)
    save(figure, file)


def draw_schedule(name: str, file: Path) -> None:
    """Draw the lr over a run, and the momentum if the schedule sets it."""
    lines = [f"scheduler={name}", f"trainer.max_steps={STEPS}", "optimizer.lr=1"]
    [plan] = plan_lr(lines + SHOWN_SETTINGS.get(name, []))
    figure = new_figure(4.4, 1.4)
    axes = figure.subplots()
    style_axes(axes, INK)
    draw(axes, plan)
    for line in axes.lines:
        line.set(color=COLOR, linewidth=1.8)
    for what, curve in ({} if plan.curve is None else plan.curve.hyperparameter_curves).items():
        values = [curve(t) for t in range(0, STEPS, 5)]
        axes.plot(range(0, STEPS, 5), values, "--", color=GRAY, label=what, linewidth=1.2)
        axes.legend(fontsize=8, labelcolor=INK, frameon=False)
    axes.set(xlim=(0, STEPS - 1), ylim=(-0.04, 1.08), yticks=(0, 0.5, 1))
    axes.set_xticks((0, 250, 500, 750, STEPS - 1), ("0", "25 %", "50 %", "75 %", "100 %"))
    save(figure, file)
