"""Runs that were never made, with learning curves, and the report of a sweep of them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from lit_optim.results.comparing import compare
from lit_optim.results.data import History, Place, Report, Run
from lit_optim.runs.status import Status

#: The best lr of each optimizer, and the loss that it then reaches.
GOOD = {"adamw": (3e-3, 0.42), "muon": (2e-2, 0.31), "sgd": (0.3, 0.55), "lion": (3e-4, 0.40)}
STEPS = 1000
CHOICES = ("optimizer", "scheduler")


def make_run(
    directory: Path,
    overrides: Mapping[str, str],
    value: float,
    status: Status = Status.COMPLETED,
    steps: int = STEPS,
    validations: int = 25,
    chance: random.Random | None = None,
    mode: str = "min",
) -> Run:
    """A run whose loss goes from 2.3 to its value, evenly in the logarithm of the updates."""
    chance = chance or random.Random(0)
    at = [round(steps * (k + 1) / validations) for k in range(validations)] if validations else []
    if status is Status.RUNNING:
        at = at[: len(at) // 2]
    if status is Status.DIVERGED:
        at = at[: max(1, len(at) // 4)]
    losses = []
    for step in at:
        share = math.log1p(step) / math.log1p(steps)
        losses.append(2.3 + (value - 2.3) * share + chance.gauss(0, 0.006))
    if status is Status.COMPLETED and losses:
        losses[-1] = value
    elif status is not Status.DIVERGED:  # then it is what it has reached
        value = losses[-1] if losses else math.nan
    typed = " ".join(f"{key}={text}" for key, text in overrides.items())
    history = History(
        step=at,
        seconds=[step * 0.004 for step in at],
        evaluations=at,
        lr=[0.001] * len(at),
        metrics={"val/loss": losses, "val/acc": [1 - loss / 2.4 for loss in losses]},
    )
    return Run(
        directory=directory,
        status=status,
        overrides=dict(overrides),
        choices={key: overrides[key] for key in CHOICES if key in overrides},
        settings={key: text for key, text in overrides.items() if key not in CHOICES},
        monitor="val/loss",
        mode=mode,
        value=value,
        best=(min if mode == "min" else max)(losses, default=math.nan),
        steps=at[-1] if at else 0,
        seconds=steps * 0.004 * chance.uniform(0.95, 1.1),
        history=history,
        command=f"python train.py {typed}".strip(),
        message="RuntimeError: no such thing" if status is Status.FAILED else "",
    )


def make_report(
    directory: Path = Path("runs/sweep"),
    optimizers: Sequence[str] = ("muon", "lion", "adamw", "sgd"),
    lrs: int = 5,
    seeds: int = 3,
    validations: int = 25,
    schedulers: Sequence[str] = ("cosine_warmup",),
    title: str = "2026-11-29_sweep",
    is_search: bool = False,
) -> Report:
    """A sweep over the lr: too high a one diverges, one run has failed, one is running.

    As a search, each lr of an optimizer is a trial of its study.
    """
    chance = random.Random(1)
    made = []
    for place, optimizer in enumerate(optimizers):
        good, floor = GOOD[optimizer if optimizer in GOOD else sorted(GOOD)[place % len(GOOD)]]
        is_last = place == len(optimizers) - 1
        for scheduler, k, seed in product(schedulers, range(lrs), range(seeds)):
            lr = float(f"{good * 10 ** (0.5 * (k - lrs // 2 + (place == 2))):.1g}")
            off = math.log10(lr / good)
            value = floor + 0.25 * off * off + chance.gauss(0, 0.012)
            value += 0.03 * schedulers.index(scheduler)
            status = Status.COMPLETED
            if off > 0.9 and (seed == 0 or off > 1.2):
                status, value = Status.DIVERGED, 2.9
            elif is_last and k == seed == 0:
                status = Status.FAILED
            elif is_last and k == lrs // 2 and seed == seeds - 1 > 0:
                status = Status.RUNNING
            overrides = {"optimizer": optimizer, "scheduler": scheduler}
            overrides |= {"optimizer.lr": f"{lr:g}", "seed": str(seed)}
            name = ",".join(f"{key}={text}" for key, text in overrides.items())
            more = {"validations": validations, "chance": chance}
            run = make_run(directory / name, overrides, value, status, **more)
            at = Place(directory, optimizer, "trial", k, ["optimizer.lr"], "val/loss")
            made.append(replace(run, place=at) if is_search else run)
    notes = ["left out: runs/sweep/x: job.json: is not valid JSON"]
    return compare(made, title, target=0.5, notes=notes)
