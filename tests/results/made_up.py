"""Reports as readers would make them, without runs: of a sweep, and with names of strangers."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from lit_optim.results.data import History, Interval, Report, Row, Run, Setting
from lit_optim.runs.status import Status

#: The best lr of each optimizer, and the loss that it then reaches.
GOOD = {"adamw": (3e-3, 0.42), "muon": (2e-2, 0.31), "sgd": (0.3, 0.55), "lion": (3e-4, 0.40)}
DEFAULTS = {"adamw": 1e-3, "muon": 0.02, "sgd": 0.1, "lion": 1e-4}
STEPS = 1000


def make_run(
    directory: Path,
    overrides: Mapping[str, str],
    value: float,
    status: Status = Status.COMPLETED,
    steps: int = STEPS,
    validations: int = 25,
    chance: random.Random | None = None,
) -> Run:
    """A run whose loss falls from 2.3 to its value, evenly in the logarithm of the updates."""
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
    has_value = status in (Status.COMPLETED, Status.DIVERGED)
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
        choices={"optimizer": overrides.get("optimizer", "adamw")},
        settings=dict(overrides),
        value=value if has_value else math.nan,
        best=min(losses, default=math.nan) if has_value else math.nan,
        steps=at[-1] if at else 0,
        seconds=steps * 0.004 * chance.uniform(0.95, 1.1),
        history=history,
        command=f"python train.py {typed}".strip(),
        message="RuntimeError: no such thing" if status is Status.FAILED else "",
    )


def make_setting(values: Mapping[str, str], lr: float, runs: Sequence[Run]) -> Setting:
    known = [run.value for run in runs if math.isfinite(run.value)]
    half = math.nan
    if len(known) > 1:
        half = float(stats.t.ppf(0.975, len(known) - 1)) * stdev(known) / len(known) ** 0.5
    return Setting(
        values, lr, runs, Interval(fmean(known) if known else math.nan, half, len(known))
    )


def make_row(values: Mapping[str, str], settings: Sequence[Setting], rank: int, lr: float) -> Row:
    known = [setting for setting in settings if math.isfinite(setting.value.mean)]
    best = min(known or settings, key=lambda setting: setting.value.mean)
    tried = sorted(setting.lr for setting in settings)
    edge = ""
    if len(tried) > 1:
        edge = "first" if best.lr == tried[0] else "last" if best.lr == tried[-1] else ""
    runs = [run for setting in settings for run in setting.runs]
    return Row(
        values=values,
        settings=settings,
        best=best,
        edge=edge,
        default_lr=lr,
        rank=rank,
        is_tied=rank == 2,
        steps_to_target=[400.0, math.inf, math.nan][rank % 3],
        seconds=fmean(run.seconds for run in best.runs),
        ms_per_step=4.0,
        counts=Counter(run.status for run in runs),
    )


def make_report(
    directory: Path = Path("runs/sweep"),
    optimizers: Sequence[str] = ("muon", "lion", "adamw", "sgd"),
    lrs: int = 5,
    seeds: int = 3,
    validations: int = 25,
    schedulers: Sequence[str] = ("cosine_warmup",),
    title: str = "2026-11-29_sweep",
) -> Report:
    """A sweep over the lr: too high a one diverges, one run has failed, one is running."""
    chance = random.Random(1)
    rows = []
    for place, optimizer in enumerate(optimizers):
        kind = optimizer if optimizer in GOOD else sorted(GOOD)[place % len(GOOD)]
        good, floor = GOOD[kind]
        for scheduler in schedulers:
            settings = []
            for k in range(lrs):
                lr = float(f"{good * 10 ** (0.5 * (k - lrs // 2 + (place == 2))):.1g}")
                off = math.log10(lr / good)
                runs = []
                for seed in range(seeds):
                    value = floor + 0.25 * off * off + chance.gauss(0, 0.012)
                    value += 0.03 * schedulers.index(scheduler)
                    status = Status.COMPLETED
                    if off > 0.9 and (seed == 0 or off > 1.2):
                        status, value = Status.DIVERGED, 2.9
                    elif place == len(optimizers) - 1 and k == 0 and seed == 0:
                        status = Status.FAILED
                    elif place == len(optimizers) - 1 and k == lrs // 2 and seed == seeds - 1 > 0:
                        status = Status.RUNNING
                    overrides = {"optimizer": optimizer, "scheduler": scheduler}
                    overrides |= {"optimizer.lr": f"{lr:g}", "seed": str(seed)}
                    name = ",".join(f"{key}={text}" for key, text in overrides.items())
                    run = make_run(
                        directory / name,
                        overrides,
                        value,
                        status,
                        validations=validations,
                        chance=chance,
                    )
                    runs.append(run)
                values = {"optimizer": optimizer, "optimizer.lr": f"{lr:g}"}
                if len(schedulers) > 1:
                    values = {"optimizer": optimizer, "scheduler": scheduler, **values}
                settings.append(make_setting(values, lr, runs))
            named = {"optimizer": optimizer}
            if len(schedulers) > 1:
                named["scheduler"] = scheduler
            rows.append((named, settings, DEFAULTS[kind]))
    made = [make_row(values, settings, 1, lr) for values, settings, lr in rows]
    made.sort(key=lambda row: row.best.value.mean)
    made = [
        make_row(row.values, row.settings, rank, row.default_lr) for rank, row in enumerate(made, 1)
    ]
    columns = ["optimizer", "scheduler"] if len(schedulers) > 1 else ["optimizer"]
    return Report(
        title=title,
        metric="val/loss",
        mode="min",
        columns=columns,
        rows=made,
        runs=[run for row in made for setting in row.settings for run in setting.runs],
        target=0.5,
        varied=["optimizer.lr"],
        notes=["left out: runs/sweep/x: job.json: is not valid JSON"],
    )
