"""An interrupted run resumes exactly with the loaders of others, wherever they keep their place."""

from __future__ import annotations

import logging
import os
import signal
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, TensorDataset

from lit_optim import AdamW
from lit_optim.callbacks.signals import Signals
from lit_optim.checkpoints.files import find_newest_intact
from lit_optim.schedules.library import cosine_warmup
from lit_optim.tasks.data import Batches
from tests.callbacks.resuming import BATCHES, Data, assert_goes_on, fit, same


class Workers(Data):
    """A loader that asks its sampler for batches before any hook is called."""

    def train_dataloader(self):
        sampler = Batches(self.pairs, self.batch_size, True, seed=1)
        return DataLoader(self.pairs, None, sampler=sampler, num_workers=1)


class Stateful:
    """A loader that keeps its place itself."""

    def __init__(self, pairs):
        self.pairs, self.place, self.epoch = pairs, 0, 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        if self.place == BATCHES:
            self.place, self.epoch = 0, self.epoch + 1
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.pairs), generator=generator).split(4)
        while self.place < BATCHES:
            self.place += 1
            yield list(self.pairs[order[self.place - 1].tolist()])

    def state_dict(self):
        return {"place": self.place, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.place, self.epoch = state["place"], state["epoch"]


class OfStateful(Data):
    def train_dataloader(self):
        return Stateful(self.pairs)


@pytest.mark.parametrize("data", [Workers, OfStateful])
def test_loaders_of_others_begin_where_they_were(data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lit_optim"):
        assert_goes_on(tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), data=data())
    assert "this loader cannot" not in caplog.text


class Signal(Callback):
    """Send a signal to this process at a batch."""

    def __init__(self, number, hook, epoch, batch):
        def called(trainer, *args, **kwargs):
            if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx) == (epoch, batch):
                os.kill(os.getpid(), number)

        setattr(self, hook, called)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("at", [(0, 3), (0, 5), (1, 0), (1, 2)], ids=str)
def test_a_loader_with_a_state_misses_no_batch_after_a_signal(at, hook, number, tmp_path):
    """It counts what is fetched, so the run must not end with a batch that is fetched alone."""
    make = partial(AdamW, lr=0.05)
    whole = fit(tmp_path / "whole", make, cosine_warmup(), data=OfStateful())
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    more = [Signals(), Signal(number, hook, *at)]
    try:
        with pytest.raises(SystemExit):
            fit(tmp_path / "parts", make, cosine_warmup(), data=OfStateful(), more=more)
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    last = tmp_path / "parts" / "last.ckpt"
    rest = fit(tmp_path / "parts", make, cosine_warmup(), ckpt=last, data=OfStateful())
    assert rest.seen == whole.seen[-len(rest.seen) :]
    assert 0 < len(rest.seen) < len(whole.seen)
    assert same(whole.state_dict(), rest.state_dict())


class Foreign(Data):
    """A loader that cannot skip batches."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.pairs.x, self.pairs.y), batch_size=4)


def test_a_loader_that_cannot_skip_batches_is_warned_of(tmp_path, caplog):
    make = partial(AdamW, lr=0.05)
    fit(tmp_path, make, cosine_warmup(), killed_at=(1, 3), data=Foreign())
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(tmp_path, make, cosine_warmup(), ckpt=find_newest_intact(tmp_path), data=Foreign())
    assert [r.message for r in caplog.records if "this loader cannot begin at batch 2" in r.message]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("data", [OfStateful, pytest.param(Workers, marks=pytest.mark.slow)])
@pytest.mark.parametrize("killed_at", [(0, 5), (1, 0), (1, 1), (1, 4)], ids=str)
@pytest.mark.parametrize(("accumulated", "interval"), [(2, 3), (3, 2), (2, 1), (2, 5)])
def test_a_checkpoint_that_waits_for_the_end_of_an_update(
    accumulated, interval, killed_at, data, tmp_path
):
    """It is written before the next batch is fetched, also at the end of an epoch."""
    run = {"accumulate_grad_batches": accumulated, "val_check_interval": interval}
    assert_goes_on(
        tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), killed_at, data=data(), **run
    )


class Shuffled(Data):
    """A loader of torch, which draws the order of each epoch when it begins."""

    workers = 0

    def train_dataloader(self):
        pairs = TensorDataset(self.pairs.x, self.pairs.y)
        return DataLoader(pairs, 4, shuffle=True, num_workers=self.workers)


class ShuffledByWorkers(Shuffled):
    workers = 1


@pytest.mark.parametrize(
    "data",
    [Shuffled, *(pytest.param(k, marks=pytest.mark.slow) for k in (ShuffledByWorkers, Workers))],
)
@pytest.mark.parametrize("killed_at", [(1, 0), (1, 3), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "run",
    [{"val_check_interval": 1.0}, {"limit_val_batches": 0}, {"accumulate_grad_batches": 4}],
    ids=["validated", "unvalidated", "accumulated"],
)
def test_after_an_epoch_the_order_is_that_of_an_undisturbed_run(run, killed_at, data, tmp_path):
    run = {"val_check_interval": 1.0} | run
    assert_goes_on(
        tmp_path, partial(AdamW, lr=0.05), cosine_warmup(), killed_at, data=data(), **run
    )


class Validated(ShuffledByWorkers):
    """Its validations draw a random number as well, for their workers."""

    def val_dataloader(self):
        pairs = TensorDataset(self.pairs.x, self.pairs.y)
        return DataLoader(pairs, 4, num_workers=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_validation_end"])
def test_a_validation_that_is_repeated_changes_no_order(hook, number, tmp_path):
    make, run = partial(AdamW, lr=0.05), {"val_check_interval": 1.0, "data": Validated()}
    whole = fit(tmp_path / "whole", make, cosine_warmup(), **run)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    more = [Signals(), Signal(number, hook, 0, BATCHES - 1)]
    try:
        with pytest.raises(SystemExit):
            fit(tmp_path / "parts", make, cosine_warmup(), more=more, **run)
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    last = tmp_path / "parts" / "last.ckpt"
    rest = fit(tmp_path / "parts", make, cosine_warmup(), ckpt=last, **run)
    assert rest.seen == whole.seen[-len(rest.seen) :]
    assert 0 < len(rest.seen) < len(whole.seen)
    assert same(whole.state_dict(), rest.state_dict())
