"""An interrupted run resumes exactly: every optimizer, every schedule."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lit_optim import SGD, AdamW
from lit_optim.callbacks.full_batch import FullBatch
from lit_optim.callbacks.resumable import Resumable
from lit_optim.checkpoints.files import find_newest_intact
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Ema, Lookahead, Wrapped
from tests.callbacks.resuming import (
    OPTIMIZERS,
    SCHEDULERS,
    Data,
    Net,
    assert_goes_on,
    build_choice,
    fit,
    same,
)

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


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", SAMPLE_OF_OPTIMIZERS)
def test_every_optimizer(name, tmp_path):
    parts = {"bias": name != "muon_torch"}  # which takes matrices alone
    assert_goes_on(
        tmp_path, build_choice("optimizer", name, _partial_=True), cosine_warmup(), parts=parts
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", SAMPLE_OF_SCHEDULERS)
def test_every_schedule(name, tmp_path):
    schedule = build_choice("scheduler", name)
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
