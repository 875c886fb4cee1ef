"""How long an update of each contestant takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.results.tournament_record import write_tournament
from lit_optim.search.data import Choice, Span, Study
from lit_optim.search.running import SearchRun
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.tournament.lines import plan_tournament
from lit_optim.tournament.measuring import TimingSource, read_seconds, timing_lines
from lit_optim.tournament.running import TournamentRun
from tests.results.directories import write_history

STUDIES = [Study(name, (f"optimizer={name}",), {}) for name in ("adamw", "muon", "sgd")]


def add(overrides, place):
    return PlannedJob(tuple(overrides), place)


def ended(tmp_path, job, seconds, is_done=True):
    run_dir = tmp_path / job.place
    run_dir.mkdir(parents=True)
    # the first part takes long: what is made then is not made again
    times = [9.0, 9.0 + 20 * seconds, 9.0 + 40 * seconds, 99.0]
    write_history(run_dir, [(20 * k, time, 20 * k, 0.1, 1.0) for k, time in enumerate(times, 1)])
    return SimpleNamespace(run_dir=run_dir, is_done=is_done)


def test_runs_are_timed_one_at_a_time_and_those_that_are_known_not_again(tmp_path):
    source = TimingSource(STUDIES, {"sgd": 0.5}, add)
    first = source.take()
    assert source.take() is None
    assert not source.is_exhausted
    source.end(first, ended(tmp_path, first, 0.25))
    second = source.take()
    source.put_back(second)
    assert source.take() == second
    source.end(second, ended(tmp_path, second, 0.75))
    assert source.take() is None
    assert source.is_exhausted
    assert source.seconds == pytest.approx({"adamw": 0.25, "muon": 0.75, "sgd": 0.5})


def test_one_that_cannot_be_timed_ends_it_in_a_line(tmp_path):
    source = TimingSource(STUDIES, {}, add)
    job = source.take()
    with pytest.raises(UsageError, match=r"adamw could not be timed, see .*\.timing/adamw"):
        source.end(job, ended(tmp_path, job, 1.0, is_done=False))


def test_a_run_without_two_looks_is_not_timed(tmp_path):
    write_history(tmp_path, [(20, 1.0, 20, 0.1, 1.0)])
    assert read_seconds(tmp_path) != read_seconds(tmp_path)


def test_a_run_that_is_timed_is_short_and_looks_at_the_clock(tmp_path):
    space = {"optimizer.lr": Span(1e-4, 1e-1, True), "optimizer.weight_decay": Choice((0.1, 0))}
    study = Study("x", ("optimizer=adamw", "data=digits", "++trainer.max_steps=9999"), space)
    cfg = compose_config(timing_lines(study))
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.1)
    trainer = cfg.trainer
    assert (trainer.max_steps, trainer.val_check_interval, trainer.limit_val_batches) == (80, 20, 1)
    assert trainer.check_val_every_n_epoch is None
    assert cfg.test is False


def test_a_worker_that_waits_for_the_measurement_has_its_updates(tmp_path, monkeypatch):
    line = ["tournament=default", "tournament.budget=seconds", "optimizer=adamw,muon"]
    line.append("trainer.max_steps=100")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    run = TournamentRun(line, config, None)
    assert [entry.updates for entry in run.tournament.entries] == [100, 100]
    seconds = {"optimizer=adamw": 0.1, "optimizer=muon": 0.4}

    def join(self):  # the parent measures meanwhile
        write_tournament(tmp_path, plan_tournament(line, seconds)[1])

    monkeypatch.setattr(SearchRun, "join", join)
    monkeypatch.setattr(SearchRun, "_open_store", lambda self: self.search)
    run.join()
    assert [entry.updates for entry in run.tournament.entries] == [100, 25]
    assert "++trainer.max_steps=25" in run.store.studies[1].fixed
