"""A class may be named by its old place wherever it may be named by its new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.targets import KINDS, check_allowed
from lit_optim.errors import UsageError
from lit_optim.moved_names import MOVED, current_name
from lit_optim.runs.layout import FINGERPRINT
from lit_optim.runs.resume import read_fingerprint, run_fingerprint

BEFORE = json.loads((Path(__file__).parents[1] / "before" / "targets.json").read_text("utf-8"))
OLD = [name for name in BEFORE if current_name(name) != name]


def is_allowed(group, target):
    try:
        check_allowed(f"{group}._target_", target, KINDS[group], [])
    except UsageError:
        return False
    return True


def test_there_are_old_names():
    assert len(OLD) > 20


@pytest.mark.parametrize("name", BEFORE)
def test_the_old_name_is_allowed_where_the_new_one_is(name):
    for group in KINDS:
        assert is_allowed(group, name) == is_allowed(group, current_name(name))


@pytest.mark.parametrize("name", [name for name in OLD if ".schedules." in name])
def test_an_old_schedule_is_allowed_for_the_scheduler(name):
    assert is_allowed("scheduler", name)
    assert not is_allowed("optimizer", name)


@pytest.mark.parametrize("module", MOVED)
def test_nothing_else_is_reached_through_an_old_module(module):
    for group in KINDS:
        assert not is_allowed(group, f"{module}.os.system")


def test_an_old_name_can_be_typed():
    lines = ["scheduler=plateau", "scheduler._target_=lit_optim.schedules.followers.plateau"]
    argv = prepare_command_line([*lines, "trainer.max_steps=10"]).argv
    assert compose_config(argv).scheduler._target_ == lines[1].partition("=")[2]


def test_an_old_name_in_the_record_of_a_run_is_no_other_run(tmp_path):
    plain = to_plain(compose_config(["scheduler=plateau"]))
    now = run_fingerprint(plain)
    before = now | {"scheduler._target_": "lit_optim.schedules.followers.plateau"}
    assert before != now
    (tmp_path / FINGERPRINT).write_text(json.dumps(before))
    assert read_fingerprint(tmp_path) == now
