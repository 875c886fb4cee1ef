"""What counts as an update, whatever gradients are left; compared with hand-written SGD."""

from __future__ import annotations

import gc
import random
import warnings
import weakref

import pytest
import torch
import torch.distributed.optim  # ZeRO's presence makes the constructor look at its callers

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import linear, linear_warmup
from lit_optim.updates import count_updates, innermost_optimizer
from lit_optim.wrappers import Ema, Lookahead, Sam
from tests.optimizers_of_others import OTHERS, Consumes, Hookless

LR = 0.1
#: What may happen in a step: it is an update, there is no loss, or the gradients are discarded.
UPDATE, NO_LOSS, DISCARDED = "update", "no loss", "discarded"
STEPS = 30


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 2), (3,)
    return [
        torch.nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator)) for s in shapes
    ]


def gradients(params):
    """Set the gradients of the sum of squares."""
    return [2 * p.detach() for p in params]


def loss_of(params):
    return sum(p.square().sum() for p in params)


def events(seed, name):
    kinds = [UPDATE, UPDATE, NO_LOSS]
    if not name.startswith("in_"):  # what is done in the backward pass cannot be discarded
        kinds.append(DISCARDED)
    generator = random.Random(seed)
    return [generator.choice(kinds) for _ in range(STEPS)]


def act(optimizer, params, event, with_closure):
    """Run one step of a training loop."""

    def backward():
        optimizer.zero_grad()
        if event == NO_LOSS:
            return None
        loss = loss_of(params)
        loss.backward()
        if event == DISCARDED:
            for p in params:
                p.grad = None
        return loss

    if with_closure:
        optimizer.step(backward)
    else:
        backward()
        optimizer.step()


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OTHERS)
def test_a_schedule_moves_with_the_updates(name, seed, with_closure):
    """Includes a warmup from 0, whose first update changes no parameter."""
    params, by_hand = parameters(), parameters()
    optimizer = OTHERS[name](params, lr=LR)
    from_0 = name != "in_tensor_hooks"  # at lr 0 nothing shows that those have updated
    schedule = linear_warmup("20%", step_alignment="start") if from_0 else linear()
    curve = schedule.curve(Horizon(STEPS))
    scheduler = ScheduledLR(optimizer, curve)
    done = 0
    for event in events(seed, name):
        lr = curve(done, LR)
        assert optimizer.param_groups[0]["lr"] == lr
        act(optimizer, params, event, with_closure)
        if event == UPDATE:
            for p, g in zip(by_hand, gradients(by_hand), strict=True):
                p.data.sub_(lr * g)
            done += 1
        scheduler.step()
        scheduler.step()  # again is nothing
        assert count_updates(optimizer).count == scheduler.last_epoch == done
    for p, q in zip(params, by_hand, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in OTHERS if not name.startswith("in_")])
def test_wrappers_move_with_the_updates(name):
    """Compared with Ema's average and Lookahead's slow weights computed by hand."""
    for wrap in (lambda o: Ema(o, decay=0.9, warmup=False), lambda o: Lookahead(o, k=3)):
        params, by_hand = parameters(), parameters()
        beside = [p.detach().clone() for p in by_hand]
        optimizer = wrap(OTHERS[name](params, lr=LR))
        done = 0
        for event in events(1, name):
            act(optimizer, params, event, with_closure=done % 2 == 0)
            if event != UPDATE:
                continue
            done += 1
            for p, g in zip(by_hand, gradients(by_hand), strict=True):
                p.data.sub_(LR * g)
            if isinstance(optimizer, Ema):
                beside = [0.9 * e + 0.1 * p.detach() for e, p in zip(beside, by_hand, strict=True)]
            elif done % 3 == 0:
                beside = [(s + p.detach()) / 2 for s, p in zip(beside, by_hand, strict=True)]
                for p, s in zip(by_hand, beside, strict=True):
                    p.data.copy_(s)
        assert optimizer.updates == done
        kept = optimizer.average if isinstance(optimizer, Ema) else optimizer.slow
        for p, q, one in zip(params, by_hand, beside, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
            torch.testing.assert_close(kept[p], one, rtol=1e-12, atol=0)


def test_all_wrappers_share_one_counter():
    params = parameters()
    inner = AdamW(params, lr=LR)
    around = Ema(Lookahead(inner))
    scheduler = ScheduledLR(around, linear().curve(Horizon(9)))
    assert innermost_optimizer(around) is inner
    assert count_updates(around) is count_updates(inner) is scheduler.updates
    for _ in range(4):
        act(around, params, UPDATE, with_closure=False)
    scheduler.step()  # one call for several updates
    assert scheduler.last_epoch == around.updates == around.base.updates == 4


def test_nested_schedules_of_torch_and_ours():
    """torch's schedulers patch `step` too, before or after the counter."""
    for torch_first in (True, False):
        params = parameters()
        optimizer = torch.optim.SGD(params, lr=LR)

        def torchs(optimizer=optimizer):
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)

        def ours(optimizer=optimizer):
            return ScheduledLR(optimizer, linear().curve(Horizon(9)))

        made = [torchs(), ours()] if torch_first else [ours(), torchs()]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for t in range(3):
                act(optimizer, params, UPDATE, with_closure=bool(t % 2))
                for scheduler in made:
                    scheduler.step()
        assert count_updates(optimizer).count == 3


def test_a_restored_step_is_counted_by_hooks():
    """In fp16 accelerate replaces `step` during each step and restores it afterwards."""
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=LR)
    before = optimizer.step
    updates = count_updates(optimizer)
    optimizer.step = before
    for event in (UPDATE, NO_LOSS, UPDATE):
        act(optimizer, params, event, with_closure=True)
        act(optimizer, params, event, with_closure=False)
    assert updates.count == 4


def test_a_step_that_raises_is_not_an_update():
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=LR)
    updates = count_updates(optimizer)

    def fails():
        loss_of(params).backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert updates.count == 0
    act(optimizer, params, UPDATE, with_closure=True)
    assert updates.count == 1


def test_a_hook_that_discards_the_gradients_comes_first():
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=LR)
    updates = count_updates(optimizer)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: opt.zero_grad())
    act(optimizer, params, UPDATE, with_closure=False)
    assert updates.count == 0


@pytest.mark.parametrize("wrap", [lambda o: o, Ema], ids=["alone", "ema"])
def test_an_overflow_is_not_an_update(wrap):
    """The scaler calls a fused optimizer, which skips the step itself."""
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = wrap(torch.optim.AdamW(params, lr=LR, fused=True))
    scheduler = ScheduledLR(optimizer, linear().curve(Horizon(9)))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    by_hand = [torch.nn.Parameter(torch.ones(3))]
    plain = torch.optim.AdamW(by_hand, lr=LR)
    for t, factor in enumerate([1.0, float("inf"), 1.0, float("nan"), 1.0]):
        optimizer.zero_grad()
        scaler.scale(loss_of(params) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        if factor == 1.0:
            plain.zero_grad()
            loss_of(by_hand).backward()
            plain.param_groups[0]["lr"] = LR * (1 - (scheduler.last_epoch) / 9)
            plain.step()
        assert scheduler.last_epoch == [1, 1, 2, 2, 3][t]
    torch.testing.assert_close(params[0], by_hand[0], rtol=1e-5, atol=0)


class Kept:
    """A listener that records its notifications."""

    def __init__(self, params):
        self.params, self.heard = params, []

    def before_update(self, updates):
        self.heard.append(("before", updates.count, self.params[0].detach().clone()))
        assert self.params[0].grad is not None

    def after_update(self, updates):
        self.heard.append(("after", updates.count, self.params[0].detach().clone()))


@pytest.mark.parametrize("name", [name for name in OTHERS if not name.startswith("in_")])
def test_listeners_are_called_before_and_after_each_update(name):
    params = parameters()
    optimizer = OTHERS[name](params, lr=LR)
    listener = Kept(params)
    updates = count_updates(optimizer)
    updates.add_listener(listener)
    updates.add_listener(listener)  # once is enough
    for with_closure in (False, True):
        act(optimizer, params, NO_LOSS, with_closure)
        act(optimizer, params, UPDATE, with_closure)
        listener.heard.clear()
        act(optimizer, params, UPDATE, with_closure)  # after one whose gradients may be there still
        (_, first, before), (_, second, after) = listener.heard
        assert (first + 1, second) == (updates.count, updates.count)
        torch.testing.assert_close(after, before - LR * 2 * before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [SGD, AdamW, torch.optim.SGD, Consumes, Hookless])
def test_the_counter_keeps_nothing_alive(make):
    """Without the garbage collector, as in torch's own test."""

    def train():
        params = parameters()
        optimizer = make(params, lr=LR)
        scheduler = ScheduledLR(optimizer, linear().curve(Horizon(9)))
        act(optimizer, params, UPDATE, with_closure=False)
        scheduler.step()
        return [weakref.ref(x) for x in (optimizer, scheduler, *params)]

    gc.collect()
    gc.disable()
    try:
        alive = [one for one in train() if one() is not None]
    finally:
        gc.enable()
    assert not alive


def test_a_compiled_step_is_counted():
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=LR)
    updates = count_updates(optimizer)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(params).backward()
        step()
    assert updates.count == 3


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, Ema, Lookahead])
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_torchs_compiler_leaves_a_step_as_it_is(kind, wrap):
    """A step is compiled already; schedules take one that is a compiled function."""

    def train(backend):
        params, lrs, graphs = parameters(), [], []
        optimizer = wrap(kind(params, lr=LR))
        if backend is not None:
            optimizer.step = torch.compile(
                optimizer.step, backend=lambda graph, _: graphs.append(graph) or graph
            )
        scheduler = ScheduledLR(optimizer, linear().curve(Horizon(STEPS)))
        for _ in range(12):
            act(optimizer, params, UPDATE, with_closure=False)
            lrs.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
        return params, lrs, graphs

    torch.compiler.reset()
    (params, lrs, _), (compiled, lrs_of_compiled, graphs) = map(train, (None, "counting"))
    assert all(map(torch.equal, params, compiled))
    assert lrs == lrs_of_compiled
    assert not graphs


@pytest.mark.parametrize("package", ["heavyball", "pytorch_optimizer"])
def test_packages(package):
    """Tests the classes of the packages that are installed."""
    module = pytest.importorskip(package)
    params = [torch.nn.Parameter(torch.ones(4, 3))]
    if package == "heavyball":
        module.utils.compile_mode = None
        optimizer = module.ForeachAdamW(params, lr=LR) if hasattr(module, "ForeachAdamW") else None
        optimizer = optimizer or module.AdamW(params, lr=LR)
    else:
        optimizer = module.Lookahead(torch.optim.SGD(params, lr=LR), k=2)
    scheduler = ScheduledLR(optimizer, linear().curve(Horizon(9)))
    for event in (UPDATE, NO_LOSS, UPDATE):
        act(optimizer, params, event, with_closure=False)
        scheduler.step()
    assert scheduler.last_epoch == 2


def test_sam_makes_one_update_with_two_gradients():
    params = parameters()
    optimizer = Sam(AdamW(params, lr=LR))
    scheduler = ScheduledLR(optimizer, linear().curve(Horizon(9)))
    for _ in range(3):
        act(optimizer, params, UPDATE, with_closure=True)
        scheduler.step()
    assert scheduler.last_epoch == 3
