"""The generated tables of the README and docs/ are complete, current, and name their sources."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lit_optim.config.places import groups, listed_choices
from tests.conftest import ROOT

TABLES = ROOT / "scripts" / "tables.py"
PAGES = (
    "CHANGELOG.md",
    "README.md",
    "docs/commands.md",
    "docs/internals.md",
    "docs/optimizers.md",
    "docs/schedules.md",
    "docs/reference_optimizers.md",
    "docs/reference_schedules.md",
)
#: Schedules that follow a metric; the page compares them with their counterparts in its text.
METRIC_SCHEDULES = {"plateau", "greedy", "reduce_lr_on_plateau", "ReduceLROnPlateau"}
#: Group of conf/ -> name of its table, and its page.
LISTED = {
    "optimizer": ("optimizers", "docs/optimizers.md"),
    "scheduler": ("schedules", "docs/schedules.md"),
}
#: A publication has a year; other sources are a library, or this project.
SOURCE = re.compile(
    r"\b(18|19|20)\d\d\b|\b(torch|timm|optax)'s |\btransformers' |^(Ours|lit-optim)$"
)


def read_table(page: str, name: str) -> list[list[str]]:
    """The rows between the markers of `name`, without the head."""
    text = (ROOT / page).read_text("utf-8")
    table = text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines()[2:]]


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in LISTED for name in listed_choices(group)]
)
def test_every_choice_has_a_row_with_its_source(group, name):
    table, page = LISTED[group]
    rows = [row for row in read_table(page, table) if f"`{name}`" in row[0]]
    assert len(rows) == 1, f"{page} does not list {name}; run python scripts/tables.py"
    [(_, headline, source)] = rows
    assert headline
    assert SOURCE.search(source), f"{source!r} is no source: the second paragraph of its docstring"


def test_the_readme_lists_the_choices_of_each_group():
    for group, decides, choices in read_table("README.md", "groups"):
        assert decides
        assert re.findall(r"`(\w+)`", choices) == list(groups()[group.strip("`")])


def run_tables(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TABLES, *map(str, argv)], capture_output=True, text=True)


def test_the_tables_are_up_to_date():
    done = run_tables("--check")
    assert done.returncode == 0, done.stderr


def test_the_tables_are_written_where_they_belong(tmp_path):
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text((ROOT / page).read_text("utf-8"), "utf-8")
    assert run_tables("--root", tmp_path).returncode == 0
    page = tmp_path / "docs/optimizers.md"
    complete = page.read_text("utf-8")
    incomplete = re.sub(r"^\| \[?`sgd` ?.*\n", "", complete, flags=re.MULTILINE)
    assert incomplete != complete
    page.write_text(incomplete, "utf-8")
    done = run_tables("--check", "--root", tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"tables: .* is out of date; run python scripts/tables.py\n", done.stderr)
    assert page.read_text("utf-8") == incomplete
    assert run_tables("--root", tmp_path).returncode == 0
    assert "`sgd`" in page.read_text("utf-8")
    page.write_text("# Nothing", "utf-8")
    done = run_tables("--root", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_tables_of_counterparts_and_shapes_are_up_to_date():
    script = ROOT / "scripts" / "counterparts.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_schedule_has_a_counterpart_on_its_page():
    names = {row[0].strip("`") for row in read_table("docs/schedules.md", "counterparts")}
    assert names == set(groups()["scheduler"]) - {"none"} - METRIC_SCHEDULES
