"""`lit-optim lr-range`: which lr the losses of a rising one suggest."""

from __future__ import annotations

import csv
import math
import shlex
from itertools import pairwise

import pytest
from lightning.pytorch import Trainer
from rich.console import Console

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.errors import UsageError
from lit_optim.reports.lr_range import Losses, lr_range, suggest_lr


def test_the_steepest_and_a_tenth_of_the_least():
    """A loss that is a logistic curve of log lr, which is steepest at 1e-3, and diverges at 1."""
    lrs = [10 ** (-6 + 7 * k / 199) for k in range(200)]
    falling = [1 / (1 + math.exp(4 * (math.log10(lr) + 3))) + 0.1 * lr for lr in lrs]
    found = suggest_lr(lrs, falling)
    assert found.steepest == pytest.approx(1e-3, rel=0.1)
    # where 4 f (1 - f) / ln 10 = 0.1 lr, with f about 1e-4 (lr)^(-1.74): at lr about 0.033
    least = min(range(200), key=falling.__getitem__)
    assert found.below == pytest.approx(lrs[least] / 10)


def test_none_where_the_loss_never_falls():
    lrs = [10 ** (-k / 10) for k in range(50, 0, -1)]
    assert suggest_lr(lrs, [1 + k for k in range(50)]) is None
    assert suggest_lr(lrs, [math.nan] * 50) is None


def test_the_average_counts_the_first_values_less():
    losses = Losses()
    for value in (3.0, 3.0, 3.0):
        losses.note(value)
    assert losses.averages == pytest.approx([3, 3, 3])
    losses.note(13.0)
    # 0.9 of what was, 0.1 of the new one, over the weights given so far
    assert losses.averages[-1] == pytest.approx((0.9 * 3 * (1 - 0.9**3) + 1.3) / (1 - 0.9**4))


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([1.0] * 50 + [30.0], False),  # the average is at 3.9
        ([1.0] * 50 + [33.0], True),  # at 4.2
        ([-1.0] * 50, False),
        ([-1.0] * 50 + [33.0], True),  # at 2.4, which is 3.4 above
        ([1.0, math.nan], True),
        ([1.0, math.inf], True),
    ],
    ids=["near", "far", "negative", "from_negative", "nan", "inf"],
)
def test_diverged(losses, diverged):
    seen = Losses()
    for value in losses:
        seen.note(value)
    assert seen.diverged == diverged


def test_a_loss_that_is_not_finite_ends_the_test_and_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="the loss diverged after 2 updates, at lr="):
        lr_range(["data=digits", "model=mlp", "optimizer=sgd"], Console(), 60, 1e20, 1e38)
    assert not list(tmp_path.iterdir())


def test_nothing_is_trained_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    monkeypatch.setattr(Trainer, "fit", None)
    with pytest.raises(UsageError, match=r"runs/.*: cannot write there: "):
        lr_range(["data=digits", "model=mlp"], Console(), 60, None, None)


def test_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = ["data=digits", "model=mlp", "optimizer=sgd", "lr_rule=linear", "lr_rule.base=32"]
    path = lr_range(lines, Console(), 60, 1e-4, 1e3)
    assert sorted(p.name for p in path.iterdir()) == ["lr_range.csv", "lr_range.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    with (path / "lr_range.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) < 60  # it has diverged
    ratios = [float(b["lr"]) / float(a["lr"]) for a, b in pairwise(rows)]
    assert ratios == pytest.approx([1e7 ** (1 / 60)] * len(ratios))
    out = capsys.readouterr().out
    assert "where the loss falls fastest" in out
    [line] = [line for line in out.splitlines() if line.startswith("next ")]
    program, *argv = shlex.split(line.removeprefix("next "))[1:]
    assert (program, argv[:-1]) == ("train", lines)
    assert f"{argv[-1]}  where the loss falls fastest" in out
    assert prepare_command_line(argv).argv  # what is to be typed is accepted


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--steps", "5"], "--steps must be at least 20, got 5"),
        (["--from", "1", "--to", "0.1"], "--from=1 must be > 0 and below --to=0.1"),
        (["--from", "x"], "must be a number > 0, got x"),
        (["optimizer=adamw,sgd"], "single run, but 2 were given"),
    ],
    ids=["steps", "order", "number", "runs"],
)
def test_mistakes(argv, line, capsys):
    with pytest.raises(SystemExit) as end:
        main(["lr-range", *argv])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert line in err
