"""The three walks of docs/internals.md name functions that a training really calls."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

from tests.conftest import ROOT

WALKS = dict(
    re.findall(
        r"^## (From .*)\n\n((?:.*\n)*?)(?=## |\Z)",
        (ROOT / "docs/internals.md").read_text("utf-8"),
        re.M,
    )
)
STEP = re.compile(r"^(\d+)\. ((?:.+\n)+?)(?=\d+\. |\n)", re.M)
NAME = re.compile(r"`(lit_optim(?:\.\w+)+)`")
#: Notes each function of the package that a run calls, as its file and first line.
NOTE_CALLS = """
import json, sys
called = set()

def note(frame, event, argument):
    if event == "call" and "lit_optim" in frame.f_code.co_filename:
        called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

def run(*args, **settings):
    sys.setprofile(note)  # again: parsing the command line has ended it
    return original(*args, **settings)

import lit_optim.runs.run as room
from lit_optim.entry import train
original, room.run = room.run, run
sys.setprofile(note)
train()
json.dump(sorted(called), open("calls.json", "w"))
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> set[tuple[str, int]]:
    """What a small run calls: in a process of its own, where nothing is cached yet."""
    place = tmp_path_factory.mktemp("calls")
    argv = ["optimizer.lr=3e-4", "scheduler.warmup=10%", "model=linear", "data=digits"]
    more = ["trainer.max_steps=3", "logger=csv", "optimizer.executor=native"]
    done = subprocess.run(
        [sys.executable, "-c", NOTE_CALLS, *argv, *more],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {(file, line) for file, line in json.loads((place / "calls.json").read_text())}


def steps_of(walk: str) -> list[str]:
    return [text for _, text in STEP.findall(WALKS[walk])]


def find(name: str) -> object:
    """What a dotted name means: a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = inspect.getattr_static(found, attribute)
        return found
    raise AssertionError(name)


def was_called(found: object, calls: set[tuple[str, int]]) -> bool:
    """Whether a function, or any method of a class, is among the calls."""
    found = inspect.unwrap(found) if callable(found) else found
    if inspect.isclass(found):
        lines, first = inspect.getsourcelines(found)
        file = inspect.getsourcefile(found)
        return any(f == file and first <= line < first + len(lines) for f, line in calls)
    assert inspect.isfunction(found), found
    return (found.__code__.co_filename, found.__code__.co_firstlineno) in calls


def test_there_are_three_walks():
    assert len(WALKS) == 3


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_has_at_most_ten_steps_with_a_name_each(walk):
    steps = steps_of(walk)
    assert 5 <= len(steps) <= 10
    assert all(NAME.search(step) for step in steps)


@pytest.mark.parametrize(
    ("walk", "name"),
    [
        (walk, name)
        for walk in WALKS
        for name in dict.fromkeys(NAME.findall("\n".join(steps_of(walk))))
    ],
)
def test_a_run_calls_what_a_step_names(walk, name, calls):
    assert was_called(find(name), calls), f"{name} is not called"


def test_a_function_that_is_not_called_is_noticed(calls):
    assert not was_called(find("lit_optim.optimizers.sgd.SGD.rule"), calls)
