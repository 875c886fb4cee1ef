"""What the launcher returns: one `JobReturn` per job, in order, as of Hydra's basic launcher."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from lit_optim.runs.failures import JobFailed
from lit_optim.runs.job import JobRecord, status_of_exit
from lit_optim.runs.locks import take_lock
from lit_optim.sweeps import launcher as launchers
from lit_optim.sweeps import plan as plans
from lit_optim.sweeps.returns import Outcome, find_worst, make_returns
from lit_optim.sweeps.signals import Signals


def ended(code=0):
    """The record of a job that ended with an exit code."""
    return JobRecord([], code, {}, status_of_exit(code))


@pytest.fixture
def outcome(tmp_path):
    def make(seed, **result):
        cfg = {"seed": seed, "hydra": {"job": {"name": "train"}, "runtime": {}}}
        whole = {"monitor": "val/loss", "mode": "min", "final": {}, "best": {}} | result
        return Outcome(tmp_path / f"seed={seed}", OmegaConf.create(cfg), ended(), whole)

    return make


def test_they_are_in_the_order_of_the_jobs(outcome):
    seeds = [2, 0, 1, 0]  # as they ended, in another one
    outcomes = {(f"seed={seed}",): outcome(seed, value=seed / 2) for seed in (1, 2, 0)}
    returned = make_returns([[f"seed={seed}"] for seed in seeds], outcomes)
    assert [one.return_value for one in returned] == [1.0, 0.0, 0.5, 0.0]
    assert [one.overrides for one in returned] == [[f"seed={seed}"] for seed in seeds]
    assert [one.cfg for one in returned] == [{"seed": seed} for seed in seeds]
    for one, seed in zip(returned, seeds, strict=True):
        assert Path(one.working_dir).name == f"seed={seed}"
        assert one.hydra_cfg.hydra.runtime.output_dir == one.working_dir
        assert (one.task_name, one.status) == ("train", JobStatus.COMPLETED)
    assert returned[1] is not returned[3]


@pytest.mark.parametrize(("mode", "worst"), [("min", 7.0), ("max", 0.5)])
@pytest.mark.parametrize("sanity", [2.0, 0.04, 90.0])
def test_a_run_that_diverged_has_the_worst_value_of_those_that_did_not(
    outcome, mode, worst, sanity
):
    """Its own may be of a single batch of the untrained model."""
    results = [{"value": 0.5}, {"value": 7.0}, {"value": sanity, "diverged": True},
               {"value": math.nan, "diverged": True}]  # fmt: skip
    outcomes = {(str(k),): outcome(k, mode=mode, **result) for k, result in enumerate(results)}
    returned = make_returns([[str(k)] for k in range(4)], outcomes)
    assert [one.return_value for one in returned] == [0.5, 7.0, worst, worst]


def test_the_worst_of_earlier_batches_counts_too(outcome):
    outcomes = {("a",): outcome(0, value=0.5), ("b",): outcome(1, value=1.0, diverged=True)}
    earlier = [outcome(2, value=9.0).result, outcome(3, value=math.inf).result, None]
    returned = make_returns([["a"], ["b"]], outcomes, earlier=earlier)
    assert [one.return_value for one in returned] == [0.5, 9.0]


def test_where_all_have_diverged_their_own_worst_counts(outcome):
    outcomes = {(str(k),): outcome(k, value=value, diverged=True)
                for k, value in enumerate((2.5, math.nan, 2.25))}  # fmt: skip
    returned = make_returns([[str(k)] for k in range(3)], outcomes)
    assert [one.return_value for one in returned] == [2.5] * 3


def test_where_no_value_is_finite_there_is_no_worst(outcome):
    assert find_worst([None, outcome(0, value=math.inf).result]) is None
    assert find_worst([]) is None


def test_results_of_earlier_versions_have_their_last_value(outcome):
    old = outcome(0, final={"val/loss": 3.0}, best={"val/loss": 2.0})
    early = outcome(1, best={"val/loss": 2.5})
    none = outcome(2)
    outcomes = {("a",): old, ("b",): early, ("c",): none}
    returned = make_returns([["a"], ["b"], ["c"]], outcomes)
    assert [one.return_value for one in returned] == [3.0, 2.5, None]


def test_a_failure_is_raised_in_the_sweep_and_says_where(outcome):
    good = outcome(3)
    failed = Outcome(good.run_dir, good.cfg, ended(-9), None)
    [returned] = make_returns([["seed=3"]], {("seed=3",): failed})
    assert returned.status == JobStatus.FAILED
    with pytest.raises(JobFailed) as raised:
        _ = returned.return_value
    assert str(raised.value) == f"seed=3: killed by SIGKILL; {good.run_dir / 'log.txt'}"
    [quiet] = make_returns([["seed=3"]], {("seed=3",): failed}, is_quiet=True)  # of a grid
    assert (quiet.status, str(quiet.return_value)) == (JobStatus.FAILED, str(raised.value))


def test_a_run_without_a_result_may_be_done(outcome):
    good = outcome(0)
    tried = Outcome(good.run_dir, good.cfg, ended(), None)  # fast_dev_run
    [returned] = make_returns([["seed=0"]], {("seed=0",): tried})
    assert (returned.status, returned.return_value) == (JobStatus.COMPLETED, None)


class Processes:
    """Jobs that end in another order than they were started in, with codes by their seed."""

    def __init__(self, codes):
        self.codes, self.started = codes, []
        self.pids = itertools.count(1 << 30)  # of no process, whatever signals are sent

    def make_ready(self, cfg):
        return False

    def start(self, order, is_forked):
        seed = int(order.run_dir.name.rpartition("=")[2])
        self.started.append(seed)
        looks = iter(range(3 - seed % 3))

        def poll():
            return self.codes[seed] if next(looks, None) is None else None

        result = {"monitor": "val/loss", "mode": "min", "final": {"val/loss": seed / 4},
                  "best": {}, "test": {}}  # fmt: skip
        (order.run_dir / "result.json").write_text(json.dumps(result))
        assert os.fstat(order.lock.fileno()).st_ino == (order.run_dir / ".lock").stat().st_ino
        return SimpleNamespace(pid=next(self.pids), poll=poll)

    def wait(self):
        pass

    def close(self):
        pass


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Launch jobs of these seeds, whose processes are made up; returns the launcher."""
    kept = {}

    def config_of(self, job):
        seed = int(job.overrides[0].rpartition("=")[2])
        cfg = {"seed": seed, "hydra": {"job": {"name": "train"}, "runtime": {}}}
        return kept.setdefault(
            job.overrides,
            plans.JobConfig(OmegaConf.create(cfg), {"seed": seed}, {"optimizer": "sgd"}),
        )

    monkeypatch.setattr(plans.SweepPlan, "config_of", config_of)

    def start(seeds, codes, n_jobs=2):
        launcher = launchers.ProcessLauncher(n_jobs)
        launcher.starter, launcher.compose = Processes(codes), None
        launcher.config = OmegaConf.create(
            {"hydra": {"sweep": {"dir": str(tmp_path / "s")}, "sweeper": {}}}
        )
        launcher.results, launcher.signals = [], Signals()
        return launcher.launch([[f"seed={seed}"] for seed in seeds], 0), launcher.starter.started

    return start


def test_jobs_that_were_done_before_are_returned_in_their_place(sweep, tmp_path):
    codes = dict.fromkeys(range(6), 0)
    first, started = sweep([4, 1, 4, 0], codes)
    assert [one.return_value for one in first] == [1.0, 0.25, 1.0, 0.0]
    assert sorted(started) == [0, 1, 4]
    second, started = sweep([0, 5, 1, 4], codes)
    assert [one.return_value for one in second] == [0.0, 1.25, 0.25, 1.0]
    assert started == [5]


def test_the_end_of_a_job_that_could_not_write_it_is_written(sweep, tmp_path):
    sweep([0, 1, 2], {0: 0, 1: 3, 2: -9})
    records = [
        json.loads((tmp_path / "s" / f"seed={k}" / "job.json").read_text()) for k in range(3)
    ]
    assert [record["exit_code"] for record in records] == [0, 3, -9]
    assert [record["status"] for record in records] == ["completed", "failed", "killed"]
    assert records[2]["message"] == "killed by SIGKILL"
    _, started = sweep([0, 1, 2], dict.fromkeys(range(3), 0))
    assert sorted(started) == [1, 2]


def test_a_job_that_outlived_its_launcher_is_awaited(sweep, tmp_path, monkeypatch, capsys):
    sweep([0, 1], {0: -9, 1: -9})
    held = take_lock(tmp_path / "s" / "seed=0")
    waits = iter(range(2))

    def wait(self):
        if next(waits, None) is None:
            held.close()

    monkeypatch.setattr(Processes, "wait", wait)
    returned, started = sweep([0, 1], {0: 0, 1: 0})
    assert started == [1, 0]
    told = f"waiting for process {os.getpid()}, which still runs in {tmp_path / 's' / 'seed=0'}"
    assert capsys.readouterr().err.count(told) == 1
    assert [one.return_value for one in returned] == [0.0, 0.25]


def test_a_disk_that_is_full_ends_the_sweep_in_a_line(sweep, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plans, "take_lock", full)
    with pytest.raises(SystemExit) as end:
        sweep([0], {})
    assert end.value.code == 1
    told = f"lit-optim: {tmp_path / 's'}: no run can be started there: No space left on device"
    assert told in capsys.readouterr().err
