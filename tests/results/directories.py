"""Directories of runs, as the runs of today and of earlier versions leave them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

#: What stands where a record should be.
BROKEN = ["", "{}", "[]", "null", "7", "{", '{"overrides": 3, "exit_code": 0}',
          '{"overrides": [1], "exit_code": 0}', '{"overrides": [], "exit_code": "0"}',
          '{"overrides": [], "exit_code": true}', "[" * 5000, "\xff"]  # fmt: skip
CHOICES = {"optimizer": "adamw", "scheduler": "cosine_warmup"}
SETTINGS = {"seed": 0, "data.seed": 0, "optimizer.lr": 0.01}


def write_run(sweep, name, overrides, value=0.5, choices=None, settings=None, code=0, **result):
    """A finished job, as an earlier launcher and the run write it."""
    run_dir = Path(sweep, name)
    run_dir.mkdir(parents=True)
    choices = CHOICES | (choices or {})
    record = {"overrides": overrides, "exit_code": code, "choices": choices}
    (run_dir / "job.json").write_text(json.dumps(record))
    (run_dir / "asked.json").write_text(json.dumps(SETTINGS | (settings or {})))
    if code == 0:
        scores = {result.get("monitor", "val/acc"): value}
        whole = {"monitor": "val/acc", "mode": "max", "seconds": 12.5, "choices": choices}
        whole |= {"final": scores, "best": scores, "test": {"test/acc": value}} | result
        (run_dir / "result.json").write_text(json.dumps(whole))
    return run_dir


def set_job(run_dir, **fields):
    """Rewrite fields of `job.json`."""
    record = json.loads((run_dir / "job.json").read_text())
    (run_dir / "job.json").write_text(json.dumps(record | fields))


def write_history(run_dir, rows, metrics=("val/loss",)):
    """A `history.csv`: rows of step, seconds, evaluations, lr and metrics."""
    lines = [",".join(("step", "seconds", "evaluations", "lr", *metrics))]
    lines += [",".join(map(repr, row)) for row in rows]
    (run_dir / "history.csv").write_text("".join(f"{line}\n" for line in lines))


def write_events(run_dir, curves, suffix=""):
    """Event files by torch, as Lightning numbers the steps: from 0."""
    with SummaryWriter(str(run_dir), filename_suffix=suffix) as writer:
        for tag, values in curves.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step)


def same(found, expected):
    """Whether two sequences of numbers are equal, NaN included."""
    return [None if math.isnan(x) else x for x in found] == list(expected)
