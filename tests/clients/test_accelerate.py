"""accelerate: its loop with our optimizers and schedules, in one process and in two."""

from __future__ import annotations

import math
import os
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.muon import Muon
from lit_optim.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import linear, linear_warmup
from lit_optim.schedules.scheduling import schedule
from lit_optim.wrappers import Ema, Lookahead, Sam
from tests.clients.conftest import import_client

accelerate = import_client("accelerate")
PrepareForLaunch = import_client("accelerate.utils.launch").PrepareForLaunch

MAKES = {
    "adamw": partial(AdamW, lr=0.01),
    "muon": partial(Muon, lr=0.01),
    "ema": lambda model: Ema(Muon(model, lr=0.01), decay=0.5),
    "lookahead": lambda model: Lookahead(AdamW(model, lr=0.01), k=2),
    "ema of lookahead": lambda model: Ema(Lookahead(AdamW(model, lr=0.01), k=2), decay=0.5),
    "schedule-free": partial(ScheduleFreeAdamW, lr=0.01),
}
SAMPLES = torch.randn(26, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EPOCHS, WARMUP = 3, 4


def network():
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)
    return nn.Sequential(*layers).double()


def data(batch_size=2):
    return DataLoader(SAMPLES, batch_size=batch_size)  # 13 batches, an odd number


def accelerator(**options):
    split = options.pop("split_batches", False)
    configuration = accelerate.DataLoaderConfiguration(split_batches=split)
    return accelerate.Accelerator(cpu=True, dataloader_config=configuration, **options)


def ours(optimizer, steps):
    how = linear_warmup(WARMUP, step_alignment="start")  # as transformers counts
    return schedule(optimizer, how, steps=steps)


def theirs(optimizer, steps):
    """torch's, with the formula of transformers' get_linear_schedule_with_warmup."""

    def factor(t):
        return t / WARMUP if t < WARMUP else max(0.0, (steps - t) / (steps - WARMUP))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(runner, model, optimizer, scheduler, loader, epochs=EPOCHS):
    """The loop of accelerate's documentation; returns the lr of each update."""
    lrs = []
    for _ in range(epochs):
        for batch in loader:
            with runner.accumulate(model):
                runner.backward(model(batch).square().mean())
                if runner.sync_gradients:
                    lrs.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return lrs


def run_by_the_book(make_scheduler, make=MAKES["adamw"], **options):
    """Create everything, then prepare it at once, as accelerate's documentation does."""
    runner = accelerator(**options)
    model, loader = network(), data()
    optimizer = make(model)
    accumulated = options.get("gradient_accumulation_steps", 1)
    scheduler = make_scheduler(optimizer, len(loader) * EPOCHS // accumulated)
    prepared = runner.prepare(model, optimizer, scheduler, loader)
    model, optimizer, scheduler, loader = prepared
    lrs = train(runner, model, optimizer, scheduler, loader)
    return lrs, optimizer.param_groups[0]["lr"], list(model.parameters())


OPTIONS = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "split": {"split_batches": True},
    "split and accumulated": {"split_batches": True, "gradient_accumulation_steps": 2},
}


def check_every_client():
    """What both one process and two do; in two it runs in each of them."""
    for options in OPTIONS.values():
        lrs, last, _ = run_by_the_book(ours, **options)
        expected, last_expected, _ = run_by_the_book(theirs, **options)
        torch.testing.assert_close(lrs, expected, rtol=1e-12, atol=1e-15)
        assert last == pytest.approx(last_expected, abs=1e-15)
    for make in MAKES.values():
        _, last, _ = run_by_the_book(ours, make)
        assert last == 0
    check_updates_after_prepare()


def check_updates_after_prepare():
    """A schedule of the prepared optimizer counts updates, prepared itself or not."""
    for is_prepared in (True, False):
        for accumulated in (1, 3):
            runner = accelerator(gradient_accumulation_steps=accumulated)
            model = network()
            model, optimizer, loader = runner.prepare(model, MAKES["ema"](model), data())
            updates = EPOCHS * math.ceil(len(loader) / accumulated)
            scheduler = ours(optimizer, updates)
            scheduler = runner.prepare(scheduler) if is_prepared else scheduler
            lrs = train(runner, model, optimizer, scheduler, loader)
            other = torch.optim.SGD(network().parameters(), lr=0.01)
            expected = [theirs(other, updates).lr_lambdas[0](t) * 0.01 for t in range(updates)]
            assert lrs == pytest.approx(expected, abs=1e-15)
            assert optimizer.param_groups[0]["lr"] == 0


def check_two_processes():
    """The clients, and that two processes make the updates of one with both halves of a batch."""
    runner = accelerator()
    assert runner.num_processes == 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the schedule's .* steps are counted")
        check_every_client()
    for make in MAKES.values():
        model = network()
        runner = accelerator()
        model, optimizer, loader = runner.prepare(model, make(model), data(1))
        scheduler = ours(optimizer, EPOCHS * len(loader))
        train(runner, model, optimizer, scheduler, loader)
        alone = network()
        other = make(alone)
        scheduler = ours(other, EPOCHS * len(loader))
        for _ in range(EPOCHS):
            for batch in data():
                other.zero_grad()
                alone(batch).square().mean().backward()
                other.step()
                scheduler.step()
        for p, q in zip(alone.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-9)
    check_words_for_the_wrong_length()


def check_words_for_the_wrong_length():
    for is_early, words in (
        (True, "create the schedule of the prepared"),
        (False, "the length of the prepared"),
    ):
        runner = accelerator()
        model, optimizer, loader = network(), None, data()
        optimizer = MAKES["adamw"](model)
        steps = EPOCHS * (math.ceil(len(loader) / 2) if is_early else len(loader))
        scheduler = ours(optimizer, steps) if is_early else None
        model, optimizer, loader = runner.prepare(model, optimizer, loader)
        scheduler = runner.prepare(scheduler or ours(optimizer, steps))
        with pytest.warns(UserWarning, match=words):
            train(runner, model, optimizer, scheduler, loader)


def test_one_process():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_every_client()


def start(rank, environment):
    os.environ |= environment
    PrepareForLaunch(check_two_processes, debug=True)(rank)


def test_two_processes(tmp_path):
    """One start of two gloo processes for everything that needs them."""
    with accelerate.utils.patch_environment(
        world_size=2,
        master_addr="127.0.0.1",
        master_port="29500",  # which is not used: the processes meet in a file
        accelerate_debug_rdv_file=tmp_path / "meeting",
        accelerate_use_cpu="yes",
        accelerate_mixed_precision="no",
        gloo_socket_ifname="lo",
    ):
        torch.multiprocessing.start_processes(
            start, (dict(os.environ),), nprocs=2, start_method="forkserver"
        )


def test_a_scheduler_that_is_stepped_with_every_batch():
    """It counts updates, so that accumulated batches do not advance it."""
    runner = accelerator(gradient_accumulation_steps=3, step_scheduler_with_optimizer=False)
    model = network()
    optimizer = MAKES["ema"](model)
    scheduler = ours(optimizer, EPOCHS * 5)
    prepared = runner.prepare(model, optimizer, scheduler, data())
    lrs = train(runner, *prepared)
    assert len(lrs) == scheduler.last_epoch == EPOCHS * 5
    assert optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_saved_state_is_resumed(name, precision, tmp_path):
    """Bit for bit, saved while the average, if there is one, is in the parameters."""

    def start():
        runner = accelerator(mixed_precision=precision)
        model, loader = network(), data()
        model = model if precision == "no" else model.float()
        optimizer = MAKES[name](model)
        scheduler = ours(optimizer, EPOCHS * len(loader))
        return runner, *runner.prepare(model, optimizer, scheduler, loader)

    def loop(runner, model, optimizer, scheduler, loader, epochs):
        optimizer.train()
        for _ in range(epochs):
            for batch in loader:
                loss = model(batch.to(next(model.parameters()).dtype)).square().mean()
                runner.backward(loss)
                runner.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        optimizer.eval()

    whole = start()
    loop(*whole, 1)
    loop(*whole, 2)
    first = start()
    loop(*first, 1)
    if name not in ("adamw", "muon", "lookahead"):
        with pytest.raises((RuntimeError, ValueError), match="eval mode"):
            first[2].step()
    first[0].save_state(tmp_path / "state")
    second = start()
    second[0].load_state(tmp_path / "state")
    loop(*second, 2)
    pairs = zip(whole[1].parameters(), second[1].parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert second[3].get_last_lr() == whole[3].get_last_lr() == [0.0] * len(whole[3].get_last_lr())
    assert type(second[0].unwrap_model(second[1])) is nn.Sequential


def test_sam_has_its_closure():
    runner, plain = accelerator(), network()
    alone, model = Sam(AdamW(plain)), network()
    model, optimizer, loader = runner.prepare(model, Sam(AdamW(model)), data())
    for net, its_optimizer, backward in (
        (plain, alone, torch.Tensor.backward),
        (model, optimizer, runner.backward),
    ):
        for batch in loader:

            def closure(net=net, its_optimizer=its_optimizer, backward=backward, batch=batch):
                its_optimizer.zero_grad()
                loss = net(batch).square().mean()
                backward(loss)
                return loss

            its_optimizer.step(closure)
    assert all(
        torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True)
    )


def test_steps_beyond_the_updates_do_not_count():
    """A prepared optimizer has no hooks, and its schedulers are stepped once for each process."""
    runner, model = accelerator(), network()
    inner = MAKES["ema"](model)
    model, optimizer = runner.prepare(model, inner)
    curve = linear().curve(Horizon(10))
    scheduler = ScheduledLR(optimizer, curve)
    for t in range(10):
        assert optimizer.param_groups[0]["lr"] == curve(t, 0.01)
        optimizer.zero_grad()
        runner.backward(model(SAMPLES[:2]).square().mean())
        optimizer.step()
        for _ in range(4):
            scheduler.step()
    assert scheduler.last_epoch == inner.updates == 10
