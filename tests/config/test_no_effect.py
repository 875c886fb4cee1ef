"""Settings that would do nothing are refused in a line; that they do nothing is shown."""

from __future__ import annotations

import pytest

from lit_optim.command_line.prepare import ONLY_WITH, prepare_command_line
from lit_optim.config.check import make_schedule, to_plain
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Horizon

#: Without effect, and the same with what gives it one.
PAIRS = [
    (["callbacks.nonfinite.most=5"], ["callbacks.nonfinite.policy=skip"]),
    (["data.seed=7", "data.shuffle=false"], ["data.shuffle=true"]),
    (["scheduler.gamma=0.9", "scheduler=cyclic"], ["scheduler.mode=exp_range"]),
    (["scheduler.gamma=0.9", "scheduler=CyclicLR"], ["scheduler.mode=exp_range"]),
    (["scheduler.base_momentum=0.5", "scheduler=OneCycleLR", "scheduler.cycle_momentum=false"],
     ["scheduler.cycle_momentum=true"]),
    (["scheduler.max_momentum=0.9", "scheduler=CyclicLR", "scheduler.cycle_momentum=false"],
     ["scheduler.cycle_momentum=true"]),
    (["scheduler.window_size=9", "scheduler=greedy"], ["scheduler.smooth=true"]),
    (["trainer.limit_train_batches=5", "trainer.overfit_batches=1"], ["trainer.overfit_batches=0"]),
    (["trainer.limit_val_batches=5", "trainer.overfit_batches=1"], ["trainer.overfit_batches=0"]),
    (["trainer.limit_test_batches=5", "test=false"], ["test=true"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "more"), PAIRS, ids=lambda lines: " ".join(lines))
def test_what_does_nothing_is_refused(line, more):
    key, _, wanted = more[0].partition("=")
    with pytest.raises(UsageError) as refused:
        prepare_command_line(line)
    assert str(refused.value).startswith(f"{line[0]} does nothing without {key}=")
    assert f"{key}={wanted}" in str(refused.value)
    assert prepare_command_line([*(x for x in line if not x.startswith(f"{key}=")), *more]).argv


def test_all_that_are_named_are_tried():
    assert {line[0].partition("=")[0] for line, _ in PAIRS} == set(ONLY_WITH)


@pytest.mark.parametrize(
    "line", [line for line, _ in PAIRS if "scheduler" in line[0]], ids=" ".join
)
def test_those_of_schedules_do_nothing_indeed(line):
    """The curve is the same with and without the key."""
    curves = []
    for lines in (line, line[1:]):
        plain = to_plain(
            compose_config([x if x.startswith("scheduler=") else f"++{x}" for x in lines])
        )
        curve = make_schedule(plain["scheduler"]).curve(Horizon(60))
        other = curve.others.get("momentum")
        values = []
        for step in range(60):
            values.append((curve(step, 0.1), other(step) if other else None))
            curve.observe(((step * 7) % 11) / 10)
        curves.append(values)
    assert curves[0] == curves[1]


@pytest.mark.parametrize("line", ["n_jobs=2", "hydra.sweep.dir=x", "hydra.launcher.n_jobs=2"])
def test_what_is_for_sweeps_is_refused_without_one(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="does nothing without -m"):
        prepare_command_line([line])
    assert prepare_command_line(["-m", line, "seed=0,1"]).argv


def test_what_is_for_a_run_is_refused_with_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="does nothing with -m; the directory is"):
        prepare_command_line(["-m", "hydra.run.dir=x", "seed=0,1"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["weights=none.pt"], "weights=none.pt is no file"),
        (["weights=a.pt", "train=false", "ckpt=a.pt"], "begins a training; with train=false, give"),
        (["weights=a.pt", "branch_from=a.pt"], "branch_from goes on with the weights of a run"),
    ],
)
def test_weights_beside_what_has_its_own(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        prepare_command_line(line)
