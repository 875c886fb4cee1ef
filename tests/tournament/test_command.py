"""`lit-optim tournament`."""

from __future__ import annotations

import shutil
import sys

import pytest

from lit_optim import cli
from lit_optim.commands import train
from lit_optim.config.places import use_conf_dir
from tests.tournament.planned import final, tournament_of


@pytest.fixture
def started(monkeypatch):
    """The lines that train is started with; it then does what is asked."""
    lines, does = [], []

    def run(args):
        lines.append(args.argv)
        for one in does:
            one(args.argv)

    monkeypatch.setattr("runpy.run_module", lambda *args, **kwargs: run(FakeArgs()))
    assert train.COMMAND.run is train.run
    return lines, does


class FakeArgs:
    """What was put into `sys.argv`."""

    def __init__(self):
        self.argv = sys.argv[1:]


def test_it_is_a_sweep_with_a_tournament(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lit-optim"])
    cli.main(["tournament", "optimizer=adamw,sgd", "n_jobs=2"])
    (line,) = started[0]
    assert line[:4] == ["-m", "optimizer=adamw,sgd", "n_jobs=2", "tournament=default"]
    assert line[4].startswith("hydra.sweep.dir=runs/")
    assert line[4].endswith("_tournament")


@pytest.mark.parametrize("key", ["resume", "resume.from", "+hydra.sweep.dir"])
def test_a_directory_that_is_typed_is_taken(started, monkeypatch, key):
    monkeypatch.setattr(sys, "argv", ["lit-optim"])
    cli.main(["tournament", f"{key}=runs/x", "tournament=mine"])
    assert started[0] == [["-m", f"{key}=runs/x", "tournament=mine"]]


def own_data(tmp_path):
    conf = tmp_path / "conf"
    (conf / "data").mkdir(parents=True)
    (conf / "data" / "mine.yaml").write_text("_target_: x.Y\n")
    return conf


def test_it_writes_the_preset_of_what_it_has_run(started, monkeypatch, tmp_path, capsys):
    conf, sweep = own_data(tmp_path), tmp_path / "t"
    monkeypatch.setattr(sys, "argv", ["lit-optim"])

    def play(argv):
        sweep.mkdir()
        tournament_of(sweep, "adamw", "lion")
        final(sweep, "adamw", 1, 0.0251)

    started[1].append(play)
    line = ["tournament", f"--config-dir={conf}", "optimizer=adamw,lion", "--write-preset"]
    try:
        cli.main([*line, f"hydra.sweep.dir={sweep}"])
    finally:
        use_conf_dir(None)
    out, err = capsys.readouterr()
    assert out == f"{conf / 'preset' / 'mine.yaml'}: adamw 2.5e-2\n"
    assert err == "not written: lion has no run at a best lr\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data=digits", "trainer.max_steps=5,10"],
            "--write-preset: has several tasks on the same data, and a preset has one lr for each "
            "optimizer",
        ),
        (["data=digits,mnist1d", "seed=0", "batch=mini,full"], "has several tasks with data="),
        (["tournament.by=[wrapper]", "wrapper=none,ema"], "--write-preset: compares wrapper"),
    ],
)
def test_what_no_preset_can_be_written_of_is_not_run(started, monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["lit-optim"])
    with pytest.raises(SystemExit) as caught:
        cli.main(["tournament", "optimizer=adamw,lion", *words, "--write-preset"])
    assert (caught.value.code, started[0]) == (2, [])
    assert said in capsys.readouterr().err


def test_one_that_is_resumed_is_known_by_its_directory(started, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["lit-optim"])
    tournament_of(tmp_path, "adamw", "lion", tasks=2)
    with pytest.raises(SystemExit) as caught:
        cli.main(["tournament", f"resume={tmp_path}", "--write-preset"])
    assert (caught.value.code, started[0]) == (2, [])
    assert "has several tasks on the same data" in capsys.readouterr().err


def test_nothing_is_written_of_one_that_has_failed(started, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["lit-optim"])

    def fail(argv):
        sys.exit(1)

    started[1].append(fail)
    with pytest.raises(SystemExit) as caught:
        cli.main(["tournament", "optimizer=adamw,lion", "--write-preset"])
    assert caught.value.code == 1


def test_a_directory_is_shown_and_its_lrs_are_written(tmp_path, capsys):
    conf, sweep = own_data(tmp_path), tmp_path / "t"
    sweep.mkdir()
    tournament_of(sweep, "adamw")
    final(sweep, "adamw", 1, 0.0251)
    try:
        cli.main(["tournament", f"--config-dir={conf}", str(sweep), "--write-preset"])
    finally:
        use_conf_dir(None)
    assert "adamw 2.5e-2" in capsys.readouterr().out
    assert (conf / "preset" / "mine.yaml").exists()


def test_what_goes_on_with_one_of_which_no_run_has_begun_is_told(tmp_path, capsys):
    tournament_of(tmp_path, "adamw")
    for run in tmp_path.iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    with pytest.raises(SystemExit) as caught:
        cli.main(["tournament", str(tmp_path)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "no run of this tournament has begun" in said
    assert f"lit-optim tournament resume={tmp_path}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "between which optimizers"),
        (
            ["nowhere"],
            "No such file or directory; nowhere is not the directory of a tournament",
        ),
        (["a=b", "--write-presets"], "unrecognized arguments: --write-presets"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as caught:
        cli.main(["tournament", *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
