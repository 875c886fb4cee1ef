"""`lit-optim plot`: the curve that trains, before it does."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import pytest
from PIL import Image

from lit_optim.cli import main
from lit_optim.config.lr import tuned_lrs
from lit_optim.config.places import groups
from lit_optim.reports.lr_plan import plan_lr
from lit_optim.reports.lr_plot import BARS, notable_updates, sparkline
from lit_optim.schedules import library
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon

LENGTH = "trainer.max_steps=1000"


@pytest.fixture
def answer(capsys):
    def run(*argv: str) -> str:
        main(["plot", *argv])
        return capsys.readouterr().out

    return run


def test_bars_and_milestones_of_each(answer, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = answer("scheduler=cosine_warmup,wsd,one_cycle", LENGTH, "optimizer.lr=0.01")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        "cosine_warmup",
        "wsd",
        "one_cycle",
    ]
    assert {len(line) for line in lines if set(line) & set(BARS)} == {60}
    assert lines[1].endswith(" 0: 0.0002   49: 0.01   999: 0")
    assert "0: 0.0002   49: 0.01   799: 0.01   999: 0" in lines[3]
    assert "momentum: 0: 0.95   299: 0.85   999: 0.95" in lines[6]


def test_the_origin_of_the_lr_is_shown_unless_it_was_typed(answer):
    curves = "scheduler=cosine_warmup,wsd"
    lr = tuned_lrs("mnist1d")["adamw"]
    assert answer(curves, LENGTH).splitlines()[-1].strip() == (
        f"optimizer adamw, lr {lr:g} (preset mnist1d)"
    )
    swept = answer(curves, LENGTH, "optimizer=sgd,muon", "preset=none").splitlines()
    assert [line.strip() for line in swept[-2:]] == [
        "optimizer sgd, lr 0.001 (default)",
        "optimizer muon, lr 0.02 (default)",
    ]
    assert "optimizer" not in answer(curves, LENGTH, "optimizer.lr=0.01")


def test_the_values_are_those_that_train(answer, tmp_path):
    path = tmp_path / "plan.csv"
    shapes = ("scheduler=wsd", "scheduler.shape=linear,square")
    answer(*shapes, LENGTH, "optimizer.lr=0.02", "--to", str(path))
    head, *rows = csv.reader(path.open())
    assert head == ["step", "lr wsd shape=linear", "lr wsd shape=square"]
    for column, shape in ((1, "linear"), (2, "square")):
        curve = library.wsd(shape=shape).curve(Horizon(1000))
        assert [float(row[column]) for row in rows] == [curve(t, 0.02) for t in range(1000)]


@pytest.mark.parametrize("name", sorted(groups()["scheduler"]))
def test_every_schedule_has_a_plan(name):
    (plan,) = plan_lr([f"scheduler={name}", "trainer.max_steps=50", "optimizer.lr=0.5"])
    assert plan.name == name
    assert plan.steps == 50
    assert 0 < max(plan.at(t) for t in range(50)) <= 0.5
    marks = notable_updates(plan.at, plan.milestones())
    assert (marks[0], marks[-1]) == (0, 49)
    assert marks == sorted(set(marks))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures(answer, tmp_path, ending):
    path = tmp_path / f"plan.{ending}"
    answer(f"--to={path}", "scheduler=one_cycle,linear", LENGTH)
    if ending == "png":
        picture = Image.open(path).convert("RGB")
        colours = {colour for _, colour in picture.getcolors(10**6)}
        assert len(colours) > 10  # more than an empty page
    else:
        text = path.read_text("utf-8")
        assert text.count('<g id="axes_') == 2  # lr and momentum
        assert text.count('<g id="line2d_') > 3


def test_lengths_in_epochs(answer):
    epochs = ("scheduler.warmup=1 epoch", "trainer.max_epochs=4")
    text = answer("scheduler=linear", *epochs, "--steps-per-epoch=25", "optimizer.lr=0.01")
    assert re.search(r"0: \S+   24: 0.01   99: 0", text)


def test_samples_are_counted_by_the_batch(answer):
    line = ("scheduler=linear", "scheduler.warmup=1000 samples", "data.batch_size=50")
    text = answer(*line, LENGTH, "optimizer.lr=0.01")
    assert "19: 0.01" in text


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["scheduler=wsdd"], "unknown scheduler 'wsdd'; did you mean wsd?"),
        (
            ["scheduler=wsd", "scheduler.shap=linear"],
            "unknown key scheduler.shap; did you mean scheduler.sha",
        ),
        (["scheduler=wsd,linear", "scheduler.shape=cosine"], "unknown key scheduler.shape (linear"),
        (["scheduler=wsd", "scheduler.warmup=9000"], "scheduler.warmup=9000: 9000 steps, but the"),
        (["optimizer.lr=interval(0.1,1)"], "list its values, separated by commas"),
        (["optimizer.lr=-1"], "optimizer.lr must be a number > 0, got -1"),
        (["--to=x.pdf"], "--to x.pdf must end in .png, .svg, .csv"),
        (["--to=nowhere/x.csv"], "--to nowhere/x.csv: no such directory: nowhere"),
        (["--steps-per-epoch=0"], "argument --steps-per-epoch: must be a whole number > 0, got 0"),
        (["--too=x.png"], "unrecognized arguments: --too=x.png; see lit-optim plot"),
        (["trainer.max_epochs=3"], "the run is in epochs, and the data, which define"),
        (["scheduler.warmup=1 epoch"], "the schedule is in epochs, and the data, which define"),
        (["scheduler.warmup=1 epoch", "trainer.max_steps=9"], "not read here: use --steps-per-e"),
        (["scheduler=StepLR", "scheduler.interval=epoch"], "are not read here: use --steps-per-ep"),
    ],
    ids=lambda argv: " ".join(argv) if isinstance(argv, list) else "",
)
def test_a_mistake_is_answered_in_one_line(capsys, argv, line):
    with pytest.raises(SystemExit) as end:
        main(["plot", *argv])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("lit-optim: ")
    assert line in err
    assert err.count("\n") == 1


def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys; from lit_optim.cli import main;"
        "main(['plot', 'scheduler=wsd,lambda,plateau', f'--to={sys.argv[1]}']);"
        "sys.exit(' '.join({'torch', 'lightning'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "plan.svg")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bars():
    assert sparkline([0, 0.5, 1], 1) == f"{BARS[0]}{BARS[4]}{BARS[7]}"
    assert sparkline([0, 0], 0) == BARS[0] * 2


def test_what_is_worth_telling():
    def marks(schedule: Schedule) -> list[int]:
        curve = schedule.curve(Horizon(100))
        return notable_updates(curve, curve.milestones())

    assert marks(library.wsd(warmup=10, cooldown=20)) == [0, 9, 79, 99]
    assert marks(library.step(step_size=40, gamma=0.1)) == [0, 40, 80, 99]
    assert marks(library.cosine()) == [0, 99]
    assert marks(library.cosine_restarts(cycles=2, warmup=0)) == [0, 49, 50, 99]
