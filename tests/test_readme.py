"""What the README shows is what there is."""

from __future__ import annotations

import re

import pytest

from lit_optim.config.command_line import front
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_every_choice_shown_is_there():
    """One way only: a new choice is not asked for a line here, `--help` lists it."""
    rows = README.split("| group | choices |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    for row in rows:
        first, choices = row.strip("| ").split(" | ", 1)
        names = {name for group in re.findall(r"`(\w+)`", first) for name in groups()[group]}
        shown = re.findall(r"`(\w+)`", choices)
        assert shown
        assert set(shown) <= names


def test_every_error_is_the_one_shown():
    shown = re.findall(r"^\$ python train.py (.*)\nlit_optim: (.*)$", README, re.MULTILINE)
    assert len(shown) >= 3
    for argument, message in shown:
        with pytest.raises(UsageError) as error:
            front([argument])
        assert str(error.value) == message


COMMANDS = re.findall(r"(?<!\$ )python train\.py ((?!train=false)[^\n`|]+)", README)


@pytest.mark.parametrize("line", sorted({line.split("#")[0].strip() for line in COMMANDS}))
def test_every_command_is_accepted(line):
    front(line.split())


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_rule_shown_is_the_one_there():
    source = (ROOT / "lit_optim/optimizers/adagrad.py").read_text("utf-8")
    shown = README.split("    def rule(self, g, p, s, h):\n")[1].split("```")[0]
    assert shown in source
