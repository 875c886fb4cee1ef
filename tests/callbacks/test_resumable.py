"""An interrupted run resumes exactly: every optimizer, every schedule."""

from __future__ import annotations

import math
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

import lit_optim
from lit_optim import SGD, AdamW
from lit_optim.callbacks import resumable
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.full_batch import FullBatch
from lit_optim.callbacks.history_file import HistoryFile
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.resumable import Resumable
from lit_optim.callbacks.threads import CpuThreads
from lit_optim.checkpoints.files import CheckpointFiles, find_newest_intact
from lit_optim.checkpoints.format import check_written
from lit_optim.config.places import groups, listed_choices
from lit_optim.errors import UsageError
from lit_optim.runs.failures import classify_error
from lit_optim.runs.start import lr_fraction
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Ema, Lookahead, Wrapped
from tests.lightning.modules import SineData
from tests.lightning.modules import trainer as quiet_trainer

OPTIMIZERS = sorted(listed_choices("optimizer"))
SCHEDULERS = sorted(groups()["scheduler"])
BATCHES = 6  # of an epoch


class Data(SineData):
    def __init__(self):
        super().__init__(BATCHES, batch_size=4)


class Net(LightningModule):
    """Has dropout, so that the random states must be restored too."""

    monitor = ("val/loss", "min")

    def __init__(self, make, schedule=None, bias=True, **parts):
        super().__init__()
        first = nn.Linear(6, 8, bias)
        others = nn.Linear(8, 8, bias), nn.Linear(8, 1, bias)
        self.net = nn.Sequential(first, nn.Tanh(), nn.Dropout(0.3), *others).double()
        self.make, self.schedule, self.parts = make, schedule, parts
        self.seen, self.lrs = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].sum().item())
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, self.schedule, **self.parts)


class Kill(Callback):
    """Kill by SIGKILL, which cannot be handled."""

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.strategy.checkpoint_io.settle()  # else it is chance which is on the disk
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work):
    """Do it in a forked process, which must be killed on the way."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # those of the parent are not there
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def fit(path, make, schedule, killed_at=None, ckpt=None, more=(), data=None, parts=None, **run):
    torch.manual_seed(0 if ckpt is None else 99)  # nothing may hang on how the second one begins
    module = Net(make, schedule, **(parts or {}))
    callbacks = [Checkpoint(path, monitor="val/loss"), Resumable(), *more]
    callbacks += [Kill(*killed_at)] if killed_at else []
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "max_epochs": 3, "val_check_interval": 2}
    trainer = Trainer(callbacks=callbacks, default_root_dir=path, **(settings | run))
    trainer.strategy.checkpoint_io = CheckpointFiles()

    def run():
        trainer.fit(module, data or Data(), ckpt_path=ckpt, weights_only=True)

    if killed_at:
        in_a_child(run)
    else:
        run()
    return module


def same(one, other):
    """To the bit; NaN is NaN."""
    if isinstance(one, torch.Tensor):
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def assert_goes_on(tmp_path, make, schedule, killed_at=(1, 3), **run):
    """Killed in the middle of an epoch, after a validation in it; or in the first batch of one."""
    whole = fit(tmp_path / "whole", make, schedule, **run)
    fit(tmp_path / "parts", make, schedule, killed_at=killed_at, **run)
    checkpoint = find_newest_intact(tmp_path / "parts")
    rest = fit(tmp_path / "parts", make, schedule, ckpt=checkpoint, **run)
    assert rest.seen == whole.seen[-len(rest.seen) :]
    assert 0 < len(rest.seen) < len(whole.seen)
    assert rest.lrs == whole.lrs[-len(rest.lrs) :]
    assert same(whole.state_dict(), rest.state_dict())
    one, other = (m.trainer.optimizers[0].state_dict() for m in (whole, rest))
    assert same(one, other)
    return whole


def made(group, name, **more):
    node = OmegaConf.load(groups()[group][name])
    node.pop("defaults", None)
    for key, value in OmegaConf.to_container(node).items():
        if str(value).startswith("${"):  # the run's, which here the module declares
            node[key] = None
    return instantiate(node, _convert_="all", **more)


SLOW = pytest.mark.slow
SAMPLE_OF_OPTIMIZERS = [
    name if k % 4 == 0 or name in ("muon", "prodigy", "schedule_free_adamw", "soap")
    else pytest.param(name, marks=SLOW)
    for k, name in enumerate(OPTIMIZERS)
]  # fmt: skip
SAMPLE_OF_SCHEDULERS = [
    name if k % 5 == 0 or name in ("plateau", "greedy", "multiplicative", "one_cycle")
    else pytest.param(name, marks=SLOW)
    for k, name in enumerate(SCHEDULERS)
]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE_OF_OPTIMIZERS)
def test_every_optimizer(name, tmp_path):
    parts = {"bias": name != "muon_torch"}  # which takes matrices alone
    assert_goes_on(tmp_path, made("optimizer", name, _partial_=True), cosine_warmup(), parts=parts)


@pytest.mark.parametrize("name", SAMPLE_OF_SCHEDULERS)
def test_every_schedule(name, tmp_path):
    schedule = made("scheduler", name)
    assert_goes_on(tmp_path, partial(AdamW, lr=0.05), schedule)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("killed_at", [(0, 4), (1, 0), (1, 1), (1, 5), (2, 4)], ids=str)
def test_a_run_killed_at_any_step_resumes_exactly(killed_at, accumulated, tmp_path):
    make = partial(AdamW, lr=0.05)
    assert_goes_on(tmp_path, make, cosine_warmup(), killed_at, accumulate_grad_batches=accumulated)


@pytest.mark.parametrize("val_batches", [1.0, 0], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("steps", [8, 9, 12], ids=str)
def test_a_run_that_resumes_at_its_end_leaves_the_newest_as_it_was(steps, val_batches, tmp_path):
    make, run = partial(AdamW, lr=0.05), {"limit_val_batches": val_batches, "max_epochs": -1}
    whole = fit(tmp_path / "whole", make, None, max_steps=15, **run)
    seen = fit(tmp_path / "parts", make, None, max_steps=steps, **run).seen
    last = str(tmp_path / "parts" / "last.ckpt")
    for more in (0, 0, 15 - steps):
        rest = fit(tmp_path / "parts", make, None, ckpt=last, max_steps=steps + more, **run)
        seen += rest.seen
    assert seen == whole.seen
    assert same(whole.state_dict(), rest.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        Wrapped(partial(AdamW, lr=0.05), partial(Ema, decay=0.9)),
        Wrapped(partial(SGD, lr=0.05), partial(Lookahead, k=3)),
        partial(AdamW, lr=0.05, state_dtype="int8"),
        partial(AdamW, lr=0.05, cautious=True),
    ],
    ids=["ema", "lookahead", "int8", "cautious"],
)
def test_what_is_around_and_beside(make, tmp_path):
    schedules = {"weight_decay": [{"shape": "linear", "from": 0.1, "to": 0}]}
    assert_goes_on(tmp_path, make, cosine_warmup(), parts={"schedules": schedules})


def test_full_batches(tmp_path):
    run = {"more": [FullBatch()], "max_epochs": 6, "val_check_interval": 1.0}
    whole = assert_goes_on(tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), (4, 2), **run)
    assert len(whole.lrs) == 6


class Thaw(Callback):
    """The first layer is frozen in the first epoch; its group has it all along."""

    def setup(self, trainer, pl_module, stage):
        pl_module.net[0].requires_grad_(False)

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.net[0].requires_grad_(trainer.current_epoch >= 1)


def test_what_is_unfrozen_on_the_way(tmp_path):
    before = Net(None).state_dict()["net.0.weight"]
    whole = assert_goes_on(tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), more=[Thaw()])
    assert not torch.equal(whole.net[0].weight, before)


class Freeze(Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.net[0].requires_grad_(False)


def test_what_this_command_freezes_stays_frozen(tmp_path):
    make = partial(AdamW, lr=0.05)
    fit(tmp_path, make, cosine_warmup(), killed_at=(1, 3))
    checkpoint = find_newest_intact(tmp_path)
    before = torch.load(checkpoint)["state_dict"]
    after = fit(tmp_path, make, cosine_warmup(), ckpt=checkpoint, more=[Freeze()]).state_dict()
    assert torch.equal(after["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(after["net.3.weight"], before["net.3.weight"])


def test_a_resumed_run_may_have_new_hyperparameters_and_another_length(tmp_path):
    make = partial(AdamW, lr=0.05)
    fit(tmp_path, make, cosine_warmup(), killed_at=(1, 3))
    torch.manual_seed(0)
    module = Net(partial(AdamW, lr=0.02, weight_decay=0.5), cosine_warmup())
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=4, enable_checkpointing=False,
        callbacks=[Resumable(fresh=["lr"], any_length=True)], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, Data(), ckpt_path=find_newest_intact(tmp_path), weights_only=True)
    done = 8  # of 24 updates now
    curve = cosine_warmup().curve(Horizon(24))
    expected = [0.02 * curve(t) for t in range(done, 24)]
    assert [lrs[0] for lrs in module.lrs] == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01  # as it was


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
