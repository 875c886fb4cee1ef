"""A checkpoint of another version, or of anybody, that cannot be resumed is refused in a line."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_optim import AdamW
from lit_optim.callbacks import resumable
from lit_optim.callbacks.history_file import HistoryFile
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.resumable import Resumable
from lit_optim.callbacks.threads import CpuThreads
from lit_optim.checkpoints.files import find_newest_intact
from lit_optim.checkpoints.format import check_written
from lit_optim.errors import UsageError
from lit_optim.runs.failures import classify_error
from lit_optim.runs.start import lr_fraction
from lit_optim.schedules.library import cosine_warmup
from tests.callbacks.resuming import fit
from tests.lightning.modules import trainer as quiet_trainer


def test_a_checkpoint_in_another_format_is_refused(tmp_path):
    fit(tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), killed_at=(1, 3))
    saved = torch.load(find_newest_intact(tmp_path), weights_only=True)
    check_written(saved)
    check_written({key: value for key, value in saved.items() if key != "written_by"})
    saved["written_by"] |= {"format": 99, "lit_optim": "9.0"}
    with pytest.raises(UsageError, match=r"was written by lit_optim 9.0 with torch .* format 99"):
        check_written(saved)


PARTS = {
    "state_dict": {},
    "optimizer_states": [],
    "lr_schedulers": [],
    "loops": {},
    "global_step": 1,
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [None, "x", 1.5, [1], {"a": 1}, "missing"], ids=str)
def test_a_checkpoint_without_a_needed_part_is_refused(part, value):
    saved = {**PARTS, part: value}
    if value == "missing":
        del saved[part]
    if isinstance(value, type(PARTS[part])):
        check_written(saved)
        return
    with pytest.raises(UsageError, match=f"the checkpoint has no {part}"):
        check_written(saved)


@pytest.mark.parametrize("saved", [None, 1, "x", [], {}, {"state_dict": {}}], ids=str)
def test_what_is_no_checkpoint_of_a_run(saved):
    with pytest.raises(UsageError, match="the checkpoint has no"):
        check_written(saved)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"callbacks": "x"}, "no states of callbacks"),
        *(
            ({"optimizer_states": [{"param_groups": [{key: lr}]}]}, "whose lr is not a number")
            for key in ("lr", "initial_lr")
            for lr in ("x", None, True, [0.1], 10**400, torch.tensor(1j), torch.zeros(2))
        ),
    ],
    ids=str,
)
def test_parts_of_another_kind(part, told):
    with pytest.raises(UsageError, match=told):
        check_written(PARTS | part)


def test_gradients_of_another_shape_are_refused(tmp_path):
    make = partial(AdamW, lr=0.05)
    name = next(iter(dict(fit(tmp_path, make, None, max_epochs=1).named_parameters())))
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["callbacks"]["Resumable"]["gradients"] = {name: torch.zeros(3, 1, 2)}
    torch.save(saved, path)
    path.with_name("last.ckpt.sha256").unlink()
    with pytest.raises(UsageError, match=rf"gradient of {name} has the shape \[3, 1, 2\]"):
        fit(tmp_path, make, None, ckpt=path)


#: A place in a checkpoint, and what someone has put there.
DEEP = [
    ("loops.fit_loop", "epoch_loop.batch_progress", {"a": 1}),
    ("loops.fit_loop", "epoch_progress", []),
    ("loops", "fit_loop", 3),
    ("optimizer_states.0", "state", None),
    ("optimizer_states.0", "param_groups", 1),
    ("lr_schedulers", 0, "x"),
    ("state_dict", "weight", 1.5),
    (None, "pytorch-lightning_version", -math.inf),
]


class Line(nn.Linear, LightningModule):
    def training_step(self, batch):
        return self(batch).mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Strict(Line):
    def on_load_checkpoint(self, checkpoint):
        raise KeyError("mine")


@pytest.mark.parametrize(("where", "name", "value"), [*DEEP, ("", "mine", 1)], ids=str)
def test_what_cannot_be_restored_is_explained_but_where_it_is_the_users_code(
    tmp_path, where, name, value
):
    path = tmp_path / "other.ckpt"
    before = quiet_trainer(tmp_path, max_steps=2)
    before.fit(Line(2, 1), torch.zeros(4, 1, 2))
    before.save_checkpoint(path)
    saved = at = torch.load(path, weights_only=True)
    for key in where.split(".") if where else ():
        at = at[int(key) if key.isdecimal() else key]
    at[name] = value
    torch.save(saved, path)
    kind, run = Strict if name == "mine" else Line, quiet_trainer(tmp_path, max_steps=4)
    with pytest.raises(Exception, match="") as found:  # noqa: PT011  # of any kind
        run.fit(kind(2, 1), torch.zeros(4, 1, 2), ckpt_path=path, weights_only=True)
    error = found.value.with_traceback(found.value.__traceback__.tb_next)  # without this function
    end = classify_error(error)
    assert end.is_explained == (kind is Line)
    assert end.message.startswith("cannot load the checkpoint") == (kind is Line)


#: Of callbacks with a state of numbers: an entry, and what fits.
STATES = [
    (HistoryFile, "seconds", 1.5),
    (HistoryFile, "lr", None),
    (MetricHistory, "best", {"val/loss": 1.0}),
    (MetricHistory, "range", (1.0, 2.0)),
    (CpuThreads, "threads", 2),
    (Resumable, "batches", 3),
    (Resumable, "stepped", None),
    (Resumable, "turned", {"weight": True}),
    (Resumable, "gradients", {"weight": torch.ones(2)}),
    (Resumable, "ranks", [{"chance": {}, "gradients": {"weight": torch.ones(2)}}]),
    (Resumable, "lost", 1),
]


@pytest.mark.parametrize("value", ["x", [[]], {"a": []}, 10**400, True, {1: 2.0}, -1j], ids=str)
@pytest.mark.parametrize(("kind", "name", "fits"), STATES, ids=str)
def test_a_state_of_another_kind_is_one_line(kind, name, fits, value):
    callback = HistoryFile(Path("x")) if kind is HistoryFile else kind()
    state = {**callback.state_dict(), name: fits}
    callback.load_state_dict(state)
    if name == "turned" and isinstance(value, dict):
        return  # names of parameters are looked up in it
    with pytest.raises(UsageError, match=f"cannot be resumed: {name} is "):
        callback.load_state_dict(state | {name: value})


HUGE = torch.zeros(1).expand(10**12)


@pytest.mark.parametrize("part", ["torch", "python", "numpy"])
@pytest.mark.parametrize("value", [None, "x", [], [3, [1], None], HUGE], ids=type)
def test_random_states_of_another_kind(part, value):
    states = resumable._random_states()
    with pytest.raises(UsageError, match="different random states"):
        resumable._restore_random_states(states | {part: value})


@pytest.mark.parametrize("by", [None, 1, [], {}, {"format": "1"}, {"format": 2}], ids=str)
def test_whoever_has_written_it(by):
    with pytest.raises(UsageError, match="reads format"):
        check_written({**PARTS, "written_by": by})


@pytest.mark.parametrize(
    "states",
    [[], [1], [{}], [{"param_groups": 1}], [{"param_groups": [1]}],
     [{"param_groups": [{"initial_lr": 1}]}], [{"param_groups": [{"lr": "x", "initial_lr": 1}]}]],
    ids=str,
)  # fmt: skip
def test_a_branch_from_a_checkpoint_without_an_lr_is_refused(states):
    with pytest.raises(UsageError, match="no optimizer lr to start from"):
        lr_fraction({"optimizer_states": states})
