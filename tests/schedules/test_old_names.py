"""`step_alignment` was called `ticks`: configurations, runs and pickles from then still work."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.old_keys import rename_old_keys, rename_override
from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError
from lit_optim.runs.layout import FINGERPRINT
from lit_optim.runs.resume import read_fingerprint
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.combinators import chained
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine, linear
from lit_optim.schedules.metric_schedules import plateau

BEFORE = json.loads((Path(__file__).parent.parent / "before" / "schedules.json").read_text("utf-8"))


def values(schedule, steps=40):
    curve = schedule.curve(Horizon(steps))
    return [curve(t) for t in range(steps)]


def test_in_python():
    assert cosine(ticks="start") == cosine(step_alignment="start")
    with pytest.raises(UsageError, match="ticks and step_alignment are the same argument"):
        cosine(ticks="start", step_alignment="end")


def test_in_a_part_of_a_schedule():
    part = {"name": "linear", "ticks": "start"}
    assert values(chained([part])) == values(linear(step_alignment="start"))


@pytest.mark.parametrize(
    ("line", "renamed"),
    [
        ("scheduler.ticks=start", "scheduler.step_alignment=start"),
        ("++scheduler.ticks=start", "++scheduler.step_alignment=start"),
        ("~scheduler.ticks", "~scheduler.step_alignment"),
        ("scheduler.ticks=end,start", "scheduler.step_alignment=end,start"),
        ("scheduler.expr='x=scheduler.ticks'", "scheduler.expr='x=scheduler.ticks'"),
    ],
)
def test_on_the_command_line(line, renamed):
    assert rename_override(line) == renamed
    assert parse_overrides([line])[0].input_line == renamed


def test_a_whole_command_line():
    prepared = prepare_command_line(["scheduler=cosine", "scheduler.ticks=start"])
    assert "++scheduler.step_alignment=start" in prepared.argv
    with pytest.raises(UsageError, match=r"scheduler\.step_alignment must be one of"):
        prepare_command_line(["scheduler=cosine", "scheduler.ticks=middle"])


def test_in_a_file_of_the_user():
    cfg = OmegaConf.create({"scheduler": {"ticks": "start", "step_alignment": "end"}})
    OmegaConf.set_struct(cfg, True)
    rename_old_keys(cfg)
    assert cfg == {"scheduler": {"step_alignment": "start"}}


def test_in_the_directory_of_an_old_run(tmp_path):
    recorded = {
        "scheduler._target_": "lit_optim.schedules.torch_names.StepLR",
        "scheduler.ticks": "end",
    }
    (tmp_path / FINGERPRINT).write_text(json.dumps(recorded), "utf-8")
    assert read_fingerprint(tmp_path) == {
        "scheduler._target_": "lit_optim.compat.torch_schedules.StepLR",
        "scheduler.step_alignment": "end",
    }


@pytest.mark.parametrize("name", BEFORE)
def test_an_old_pickle_has_the_same_values(name):
    schedule = pickle.loads(base64.b64decode(BEFORE[name]["pickle"]))
    assert values(schedule) == BEFORE[name]["values"]


def test_an_old_checkpoint_resumes():
    """What the scheduler of earlier versions saved, key by key."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    scheduler = ScheduledLR(optimizer, plateau(patience=0, factor=0.5).curve(Horizon(20)))
    memory = {"best": 1.0, "bad": 0, "good": 1, "lrs": {0.5: 0.25}, "wait": 0}
    old = {"last_epoch": 7, "total": 20, "factors": {0: 2.0}, "curve": memory}
    scheduler.load_state_dict(old)
    scheduler.refresh()
    assert optimizer.param_groups[0]["lr"] == 0.25 * 2.0
    assert scheduler.state_dict() == old
