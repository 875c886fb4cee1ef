"""Command lines that are accepted, and what they are to Hydra."""

from __future__ import annotations

import pytest

from lit_optim.command_line.prepare import prepare_command_line


def swept(argv):
    """The arguments for Hydra, without the directory of the sweep, which ends them."""
    *others, directory = prepare_command_line(argv).argv
    assert directory.startswith("hydra.sweep.dir=")
    return others


def test_arguments_are_passed_on_as_typed():
    typed = [
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "+experiment=mnist1d_paper",
        "hydra.verbose=true",
    ]
    assert prepare_command_line(typed).argv == [
        "optimizer=sgd",
        "++optimizer.momentum=0.9",
        "experiment=mnist1d_paper",
        "hydra.verbose=true",
    ]
    line = ["-m", "optimizer=adamw,sgd", "seed=range(0,3)", "optimizer.lr=1e-3,1e-2"]
    assert swept(line) == [
        "-m",
        "optimizer=adamw,sgd",
        "++seed=range(0,3)",
        "++optimizer.lr=1e-3,1e-2",
    ]


def test_legal_lines():
    assert prepare_command_line(["scheduler.total=8000", "scheduler.warmup=5000"]).argv
    assert prepare_command_line(["~trainer.fast_dev_run"]).argv == ["~trainer.fast_dev_run"]
    assert swept(["-m", "optimizer=glob(ada*)"]) == [
        "-m",
        "optimizer=glob(ada*)",
    ]
    assert swept(["optimizer=sgd", "-m", "seed=1,2"]) == [
        "-m",
        "optimizer=sgd",
        "++seed=1,2",
    ]
    assert prepare_command_line(["optimizer.lr=1" + "0" * 18]).argv


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("0.5*(1+cos(pi*progress))", "'0.5*(1+cos(pi*progress))'"),
        ("'1-progress'", "'1-progress'"),
        ('"1-progress"', '"1-progress"'),
        ("max(0.1,1-progress)", "'max(0.1,1-progress)'"),
        ("max(0.1,min(1,2*(1-progress)))", "'max(0.1,min(1,2*(1-progress)))'"),
    ],
)
def test_a_formula_needs_no_quotes_but_the_shells(typed, seen):
    argv = prepare_command_line(["scheduler=lambda", f"scheduler.expr={typed}"]).argv
    assert argv == ["scheduler=lambda", f"++scheduler.expr={seen}"]
    assert seen in swept(["-m", "scheduler=lambda", f"scheduler.expr={typed},1"])[-1]
