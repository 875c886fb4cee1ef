"""What --help and --version say."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest

from lit_optim import __version__
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.places import groups, headline
from lit_optim.config.settings import Settings
from lit_optim.signatures import inspect_signature


def test_the_version_is_ours():
    for argv in (["--version"], ["optimizer=sgd", "--version"]):
        assert prepare_command_line(argv).text == f"lit-optim {__version__}"


def test_every_setting_is_listed():
    text = prepare_command_line(["--help"]).text
    for name in inspect_signature(Settings.__init__).parameters:
        if name != "self":
            assert re.search(rf"^  {name}=", text, re.MULTILINE), name
    for key in ("resume.from=none", "resume.horizon=error", "resume.override=[]"):
        assert re.search(rf"^  {re.escape(key)} +\w", text, re.MULTILINE), key
    assert "python train.py resume=" in text
    assert "hydra" not in text.partition("settings")[2]


@pytest.mark.parametrize("group", ["model", "data", "optimizer"])
def test_the_arguments_of_a_class_of_ones_own(tmp_path, monkeypatch, group):
    (tmp_path / "helped.py").write_text(textwrap.dedent('''
        class Thing:
            """What it is for.

            And more.
            """

            def __init__(self, width: int, share: float = 0.5, name=None, **others):
                pass
    '''))  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    text = prepare_command_line(
        [f"{group}=custom", f"{group}._target_=helped.Thing", "--help"]
    ).text
    assert "# helped.Thing: What it is for." in text
    assert f"{group}.width= # a whole number, must be given" in text
    assert f"{group}.share= # a number" in text
    assert f"{group}.name=" in text
    assert "helped" not in sys.modules  # it is read, not imported
    missing = prepare_command_line(
        [f"{group}=custom", f"{group}._target_=helped.Other", "--help"]
    ).text
    assert f"{group}._target_=" in missing


def test_help_lists_every_option_with_a_line():
    text = prepare_command_line(["--help"]).text
    for group, choices in groups().items():
        for name, path in choices.items():
            assert headline(path), path
            assert any(
                line.split()[:1] == [name] and headline(path) in line for line in text.splitlines()
            ), (group, name)
    for setting in ("seed=0", "ckpt=null", "n_jobs=1"):
        assert setting in text


def test_help_of_a_choice_shows_its_keys():
    text = prepare_command_line(["optimizer=sgd", "--help"]).text
    assert "optimizer.momentum=0.0 # momentum; 0.9 makes steps" in text
    assert "scheduler" not in text
