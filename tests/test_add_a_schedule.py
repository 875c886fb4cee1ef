"""docs/contributing.md, "Add a schedule": its steps, followed in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.documents import read_blocks

NAME = "sqrt_cooldown"
COPIED = ("lit_optim", "hydra_plugins", "conf", "tests", "train.py", "pyproject.toml")
#: The files that the steps write, or append to, in the order of the page.
FUNCTIONS, CHOICE, COUNTERPARTS = (
    "lit_optim/schedules/decays.py",
    f"conf/scheduler/{NAME}.yaml",
    "tests/schedules/counterparts_of_papers.py",
)


def read_section() -> str:
    page = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    return page.partition("\n## Add a schedule\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository in which the steps were followed."""
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("*.tar.gz", "golden")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    function, choice, counterpart, _ = read_blocks(read_section(), "contributing.md")
    for file, block in ((FUNCTIONS, function), (COUNTERPARTS, counterpart)):
        with (copy / file).open("a", encoding="utf-8") as opened:
            opened.write(f"\n\n{block.code}")
    assert not (copy / CHOICE).exists()
    (copy / CHOICE).write_text(choice.code, "utf-8")
    return copy


def run(tree, *argv: str) -> str:
    env = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, *argv]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_names_the_files_and_commands():
    section = read_section()
    for number, file in enumerate((FUNCTIONS, CHOICE, COUNTERPARTS), 1):
        [step] = re.findall(rf"^\*\*{number}\..*$", section, re.MULTILINE)
        assert f"`{file}`" in step
    commands = read_blocks(section, "contributing.md")[-1].code
    assert re.findall(r"^\$ (.*)$", commands, re.MULTILINE) == [
        f"lit-optim schedules {NAME}",
        f"lit-optim plot scheduler={NAME} trainer.max_steps=1000",
        f"python train.py scheduler={NAME} trainer.max_steps=20",
        f"python -m pytest tests/schedules tests/config -k {NAME}",
        "make docs",
    ]


def test_it_is_listed(tree):
    listed = run(tree, "-m", "lit_optim", "schedules", NAME)
    assert "1 - √x cooldown" in listed
    assert "arXiv:2405.18392" in listed


def test_it_is_plotted(tree):
    assert NAME in run(tree, "-m", "lit_optim", "plot", f"scheduler={NAME}", "trainer.max_steps=99")


def test_it_trains(tree):
    small = ("trainer.max_steps=20", "model=linear", "data=digits", "logger=none")
    run(tree, "train.py", f"scheduler={NAME}", "scheduler.cooldown=60%", *small)
    [config] = tree.glob(f"runs/*/*_{NAME}/config.yaml")
    assert "cooldown: 60%" in config.read_text("utf-8")


def test_it_passes_the_tests_of_every_schedule(tree):
    quiet = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", NAME)
    tested = run(tree, "-m", "pytest", *quiet, "tests/schedules", "tests/config/test_conf.py")
    assert len(re.findall(r"^\.+", tested, re.MULTILINE)[0]) > 20, tested
