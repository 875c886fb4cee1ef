"""Commands that messages name are there to be typed."""

from __future__ import annotations

import re
import sys
from functools import partial

import pytest

from lit_optim import app, programs
from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.programs import train_command
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def activated(monkeypatch):
    """An environment in which `lit-optim` is found."""
    monkeypatch.setattr(programs.shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package without a checkout around it, in a directory with a train.py of the user's."""
    monkeypatch.setattr(programs, "SCRIPT", tmp_path / "site-packages" / "train.py")
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)


def test_in_a_checkout_it_is_the_script(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert train_command() == "python train.py"


def test_elsewhere_it_is_the_script_if_that_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert train_command() == "lit-optim train"
    monkeypatch.setattr(programs.sys, "argv", [str(ROOT / "train.py")])
    assert train_command() == f"python {ROOT / 'train.py'}"


@pytest.mark.parametrize("started", ["train.py", "lit-optim", "-c"])
def test_an_installed_package_has_no_script(installed, monkeypatch, started):
    monkeypatch.setattr(programs.sys, "argv", [started])
    assert train_command() == "lit-optim train"


@pytest.mark.parametrize("line", [["optimizers", "adam"], ["schedules", "wsd"]])
def test_listings_name_it(installed, capsys, line):
    main(line)
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"use it with: lit-optim train (optimizer|scheduler)=\w+", first)


def test_help_names_it(installed):
    text = prepare_command_line(["--help"]).text
    assert "  lit-optim train optimizer=adamw scheduler=cosine_warmup  " in text
    assert "train.py" not in text.partition("settings")[0]


@pytest.fixture
def removed(tmp_path, monkeypatch):
    """The current directory is removed, which Windows does not let anybody do."""
    where = tmp_path / "gone"
    where.mkdir()
    monkeypatch.chdir(where)
    where.rmdir()


@pytest.mark.usefixtures("removed")
@pytest.mark.skipif(sys.platform == "win32", reason="it is in use")
def test_a_removed_directory_is_told_before_anything_fails_there(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    starts = [[name] for name in ("doctor", "explain", "lr-range", "plot", "race", "train")]
    starts += [[name, "runs"] for name in ("best", "board", "report", "rerun", "results", "worker")]
    for start in (app.main, *(partial(main, argv) for argv in starts)):
        with pytest.raises(SystemExit) as end:
            start()
        assert end.value.code == 2
        assert "the current directory no longer exists" in capsys.readouterr().err
    main(["optimizers"])
    assert "adamw" in capsys.readouterr().out
