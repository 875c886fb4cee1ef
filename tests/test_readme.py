"""What the README shows is what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from lit_optim.cli import main
from lit_optim.command_line.prepare import front
from lit_optim.config.places import groups, shipped
from lit_optim.errors import UsageError
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")
TABLES = ROOT / "scripts" / "tables.py"
PAGE = ROOT / "docs" / "schedules.md"
FOLLOWERS = {"plateau", "greedy", "reduce_lr_on_plateau", "ReduceLROnPlateau"}  # told below it
LISTED = {"optimizer": "optimizers", "scheduler": "schedules"}
#: A work has a year; what is not from one is a library's, or ours.
SOURCE = re.compile(r"\b(18|19|20)\d\d\b|\b(torch|timm|optax)'s |\btransformers' |^Ours$")


def test_every_choice_shown_is_there():
    """One way only: a new choice is not asked for a line here, `--help` lists it."""
    rows = README.split("| group | choices |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    for row in rows:
        first, choices = row.strip("| ").split(" | ", 1)
        names = {name for group in re.findall(r"`(\w+)`", first) for name in groups()[group]}
        shown = re.findall(r"`(\w+)`", choices)
        assert shown
        assert set(shown) <= names


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in LISTED for name in shipped(group)]
)
def test_every_choice_is_in_its_table(group, name):
    table = README.split(f"<!-- {LISTED[group]} -->\n")[1].split(f"<!-- /{LISTED[group]} -->")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| `")]
    row = next((row for row in rows if row[0] == f"`{name}`"), None)
    assert row is not None, f"README.md does not list {name}; run python scripts/tables.py"
    assert len(row) == 3, f"{name} has no source: the second paragraph of its docstring"
    _, line, source = row
    assert line
    assert SOURCE.search(source), f"{source!r} is no source: the second paragraph of its docstring"


def tables(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TABLES, *map(str, argv)], capture_output=True, text=True)


def test_the_tables_are_up_to_date():
    done = tables("--check")
    assert done.returncode == 0, done.stderr


def test_the_tables_are_written_where_they_belong(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    assert tables(readme).returncode == 0
    whole = readme.read_text("utf-8")
    readme.write_text(re.sub(r"^\| `sgd` .*\n", "", whole, flags=re.MULTILINE), "utf-8")
    old = readme.read_text("utf-8")
    assert old != whole
    done = tables("--check", readme)
    assert done.returncode == 1
    assert re.fullmatch(r"tables: .* is out of date; run python scripts/tables.py\n", done.stderr)
    assert readme.read_text("utf-8") == old
    assert tables(readme).returncode == 0
    assert readme.read_text("utf-8") == whole
    readme.write_text("# Nothing", "utf-8")
    done = tables(readme)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_tables_of_schedules_are_up_to_date():
    script = ROOT / "scripts" / "counterparts.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_schedule_has_a_counterpart_on_its_page():
    table = PAGE.read_text("utf-8").split("<!-- counterparts -->")[1]
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert rows == set(groups()["scheduler"]) - {"none"} - FOLLOWERS


def test_the_plot_shown_is_what_is_printed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    line, text = re.findall(r"^\$ lit-optim (plot .*)\n((?:.+\n)+?)```", README, re.MULTILINE)[0]
    main(shlex.split(line))
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`lit-optim ((?!board)[^`]+)`", README))))
def test_every_listing_shown_is_accepted(line, capsys):
    main(shlex.split(line))
    assert capsys.readouterr().out


def test_every_error_is_the_one_shown():
    shown = re.findall(r"^\$ python train.py (.*)\nlit_optim: (.*)$", README, re.MULTILINE)
    assert len(shown) >= 3
    for argument, message in shown:
        with pytest.raises(UsageError) as error:
            front([argument])
        assert str(error.value) == message


COMMANDS = re.findall(r"(?<!\$ )python train\.py ((?!train=false|resume=runs)[^\n`|]+)", README)


@pytest.mark.parametrize("line", sorted({line.split("#")[0].strip() for line in COMMANDS}))
def test_every_command_is_accepted(line):
    front(shlex.split(line))


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).is_file(), target


def test_the_rule_shown_is_the_one_there():
    source = (ROOT / "lit_optim/optimizers/adagrad.py").read_text("utf-8")
    shown = README.split("    def rule(self, g, p, s, h):\n")[1].split("```")[0]
    assert shown in source
