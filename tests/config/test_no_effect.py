"""Settings that would do nothing are refused in a line; that they do nothing is shown."""

from __future__ import annotations

import pytest

from lit_optim.command_line.effects import ONLY_WITH
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import make_schedule, to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.places import use_conf_dir
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
        other = curve.hyperparameter_curves.get("momentum")
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
        (["weights=none.pt"], "weights=none.pt is not a file"),
        (["weights=a.pt", "train=false", "ckpt=a.pt"], "begins a training; with train=false, give"),
        (["weights=a.pt", "branch_from=a.pt"], "branch_from continues from the weights of a run"),
    ],
)
def test_weights_beside_what_has_its_own(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        prepare_command_line(line)


NEVER = "trainer.limit_val_batches=0"
UNUSED = [
    (["trainer.min_steps=2"], "trainer.min_steps=2 changes nothing: no callback"),
    (["trainer.min_epochs=1"], "trainer.min_epochs=1 changes nothing"),
    (["mode=max", NEVER], f"mode=max changes nothing: with {NEVER} there is no validation metric"),
    (["mode=max", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=3"],
     "mode=max changes nothing: with trainer.check_val_every_n_epoch=3 and trainer.max_epochs=2"),
]  # fmt: skip
USED = [
    ["trainer.min_steps=2", "trainer.max_time=00:01:00:00"],
    ["trainer.min_steps=2", "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
     "callbacks.stop.monitor=val/loss"],
    ["trainer.min_epochs=1", "allow=[user_code]", "callbacks.mine._target_=user_code.Spy"],
    ["mode=max"],
    ["mode=max", "monitor=train/loss", NEVER],
    [NEVER],
    ["trainer=cpu"],
]  # fmt: skip


@pytest.mark.parametrize(("line", "warning"), UNUSED, ids=lambda lines: str(lines))
def test_a_typed_key_that_changes_nothing_is_named(capsys, line, warning):
    assert prepare_command_line(line).argv
    assert capsys.readouterr().err.startswith(f"lit-optim: warning: {warning}")


@pytest.mark.parametrize("line", USED, ids=" ".join)
def test_a_key_that_may_change_something_is_not(capsys, line):
    assert prepare_command_line(line).argv
    assert not capsys.readouterr().err


def test_what_an_experiment_sets_is_not_named(capsys, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ntrainer:\n  min_steps: 2\n  limit_val_batches: 0\nmode: max\n"
    )
    assert prepare_command_line([f"--config-dir={tmp_path}", "experiment=mine"]).argv
    assert not capsys.readouterr().err
    use_conf_dir(None)


def test_the_best_checkpoint_of_a_run_that_never_validates_is_refused_before_training():
    message = f"ckpt=best needs a validation, but with {NEVER} there is none"
    with pytest.raises(UsageError, match=message):
        prepare_command_line(["ckpt=best", NEVER])
    assert prepare_command_line(["ckpt=best"]).argv
