"""Runs with a value and little else, as tests of comparing and of tables need them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lit_optim.results.data import History, Run
from lit_optim.runs.status import Status


def a_run(value, optimizer="adamw", seed=0, lr=0.01, status=Status.COMPLETED, curve=(), **more):
    overrides = {"optimizer": optimizer, "optimizer.lr": f"{lr:g}", "seed": f"{seed}"}
    typed = more.pop("overrides", {})
    steps = [10 * (k + 1) for k in range(len(curve))]
    run = Run(
        directory=Path(f"{optimizer}-{lr}-{seed}-{value}"),
        status=status,
        overrides=overrides | typed,
        choices={"optimizer": optimizer, "scheduler": typed.get("scheduler", "wsd")},
        settings={"optimizer.lr": lr, "seed": seed, "data.seed": seed},
        monitor="val/loss",
        value=value,
        best=value,
        finals={"val/loss": value},
        steps=100,
        seconds=2.0 + seed,
        history=History(steps, steps, steps, [lr] * len(curve), {"val/loss": list(curve)})
        if curve
        else History(),
    )
    return replace(run, **more)


def seeds(values, **more):
    return [a_run(value, seed=seed, **more) for seed, value in enumerate(values)]


CURVES = {"adamw": [[2, 1, 0.5], [2, 0.9, 0.4]], "sgd": [[2, 1.5, 1.2], [2, 1.4, 1.0]]}


def with_curves():
    return [
        a_run(curve[-1], optimizer, seed, curve=curve)
        for optimizer, curves in CURVES.items()
        for seed, curve in enumerate(curves)
    ]
