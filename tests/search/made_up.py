"""A search whose runs are made up: each ends in a moment, with a value of a closed form."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from omegaconf import OmegaConf
from rich.console import Console

from lit_optim.runs.job import own_record, write_job
from lit_optim.runs.layout import RESULT, STOP
from lit_optim.runs.status import Status
from lit_optim.search.data import Search, Settings, Span, Study, Trial
from lit_optim.search.progress import SearchProgress
from lit_optim.search.source import SearchSource
from lit_optim.sweeps.plan import JobConfig, JobPlan
from lit_optim.sweeps.pool import JobPool
from lit_optim.sweeps.signals import Signals

#: Of no process, whatever signals are sent to it.
PID = 1 << 30
LR = Span(1e-4, 1e-1, is_log=True)


def study(name="", fixed=("optimizer=adamw",)):
    return Study(name, tuple(fixed), {"optimizer.lr": LR})


def search(*studies, **settings):
    settings = {"trials": 3, "sampler": "random", **settings}
    return Search(("line",), studies or (study(),), Settings(**settings))


def loss(lr, seed=0):
    """The closed form: best at an lr of 1e-2."""
    return (math.log10(lr) + 2) ** 2 + seed


class Plan(JobPlan):
    """A plan without configurations to compose."""

    def __init__(self, sweep_dir):
        super().__init__(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep_dir)}}}), None)

    def config_of(self, job):
        cfg = OmegaConf.create({"trainer": {"max_steps": 100}})
        return JobConfig(cfg, {"overrides": sorted(job.overrides)}, {"optimizer": "adamw"})


class Runs:
    """Starts made-up runs, and remembers in which order.

    Args:
        act: called with a run's directory, its values by key and how often it has been started;
            returns what happens: a value, a status, an exit code or None, which goes on.
    """

    def __init__(self, act: Callable[[Path, dict[str, str], int], object]):
        self.act, self.started = act, []
        self.starts = defaultdict(int)

    def make_ready(self, cfg):
        return True

    def start(self, order, is_forked):
        place = "/".join(order.run_dir.parts[-2:])
        self.started.append(place)
        self.starts[order.run_dir] += 1
        lines = [line for line in order.overrides if not line.startswith("hydra.")]
        write_job(order.run_dir, replace(own_record(lines, {}, {}), pid=PID))
        values = dict(line.lstrip("+").split("=", 1) for line in lines)
        count = self.starts[order.run_dir]

        def poll():
            end = self.act(order.run_dir, values, count)
            return None if end is None else end_run(order.run_dir, lines, end)

        return SimpleNamespace(pid=PID, poll=poll)

    def wait(self):
        pass

    def close(self):
        pass


def end_run(run_dir, lines, end):
    """Write what a run leaves behind; returns its exit code."""
    if isinstance(end, int):  # a crash, of which only the code is known
        return end
    value, status = (end, Status.COMPLETED) if isinstance(end, float) else end
    if (run_dir / STOP).exists() and status == Status.COMPLETED:
        status = Status.PRUNED
    result = {
        "choices": {}, "seed": 0, "monitor": "val/loss", "mode": "min", "value": value,
        "final": {"val/loss": value, "val/accuracy": 1 - value}, "best": {"val/loss": value / 2},
        "test": {}, "steps": 100, "seconds": 1.0, "evaluations": 100,
        "diverged": status == Status.DIVERGED,
    }  # fmt: skip
    (run_dir / RESULT).write_text(json.dumps(result))
    record = own_record(lines, {}, {})
    write_job(run_dir, replace(record, pid=PID, status=status, exit_code=0))
    return 0


def by_loss(run_dir, values, count):
    return loss(float(values["optimizer.lr"]), int(values["seed"]))


class Memory:
    """A store in memory, whose values are given."""

    def __init__(self, search, lrs=(1e-3, 1e-2, 1e-1, 3e-2)):
        self.search, self.lrs = search, lrs
        self.told, self.reported, self.running = {}, [], set()
        self.prunes = lambda trial, step: False

    def unfinished(self, study):
        names = [(study.name, number) for number in range(self.search.settings.trials)]
        left = [name for name in names if name not in self.told]
        return [number for _, number in sorted(left, key=lambda one: one not in self.running)]

    def propose(self, study, number):
        if (study.name, number) in self.told:
            return None
        self.running.add((study.name, number))
        return Trial(study, number, {"optimizer.lr": self.lrs[number % len(self.lrs)]})

    def report(self, trial, step, value):
        self.reported.append((trial.number, step, value))

    def should_prune(self, trial, length):
        return self.prunes(trial, max(step for n, step, _ in self.reported if n == trial.number))

    def tell(self, trial, end):
        assert (trial.study.name, trial.number) not in self.told
        self.told[trial.study.name, trial.number] = end

    def ends(self, study):
        return [(Trial(study, n, {}), end) for (name, n), end in sorted(self.told.items())
                if name == study.name]  # fmt: skip


def run(
    searched,
    sweep_dir,
    act=by_loss,
    n_jobs=1,
    store=None,
    clock=None,
    runs=None,
    signals=None,
    wrap=None,
    elapsed=0.0,
):
    """Run a search; returns its store, the runs in the order of their starts, and what it told.

    `wrap` makes the source of that of the trials, of the store and of the plan; `elapsed` is the
    time since the search was begun elsewhere.
    """
    store, runs = store or Memory(searched), runs or Runs(act)
    plan, console = Plan(sweep_dir), Console(file=io.StringIO(), width=200)
    given = {} if clock is None else {"clock": clock}
    source = SearchSource(searched, store, plan, **given, elapsed=elapsed)
    progress = SearchProgress(source, console)
    whole = source if wrap is None else wrap(source, store, plan)
    try:
        JobPool(plan, runs, whole, n_jobs, progress, signals or Signals(), console).run()
    finally:
        source.close()
    return SimpleNamespace(
        store=store, started=runs.started, source=source, out=console.file.getvalue()
    )
