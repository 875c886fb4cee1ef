"""The lr of every update is right in any loop, compared with torch's own schedulers.

The reference is a loop with one call of torch's scheduler after each update, as torch's manual has
it. Ours gets the same updates, with whatever happens between them.
"""

from __future__ import annotations

import copy
import io
import pickle
import random
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lit_optim import AdamW, Muon
from lit_optim import schedules as S
from lit_optim.errors import UsageError
from lit_optim.schedules.scheduling import schedule
from lit_optim.wrappers import Ema, Lookahead
from tests.schedules.loops import STEPS, Recorder, backward, lrs_of, model_and_optimizer

#: torch's scheduler, and ours of the same formula. (A run of 24 updates.)
PAIRS: dict[str, tuple[Any, Any]] = {
    "ConstantLR": (lambda o: theirs.ConstantLR(o, 0.25, 7), S.ConstantLR(0.25, 7)),
    "LinearLR": (lambda o: theirs.LinearLR(o, 0.2, 0.9, 9), S.LinearLR(0.2, 0.9, 9)),
    "ExponentialLR": (lambda o: theirs.ExponentialLR(o, 0.9), S.ExponentialLR(0.9)),
    "exponential": (lambda o: theirs.ExponentialLR(o, 0.9),
        S.exponential(0.9, every=1, step_alignment="start")),
    "StepLR": (lambda o: theirs.StepLR(o, 5, 0.3), S.StepLR(5, 0.3)),
    "step": (lambda o: theirs.StepLR(o, 5, 0.3), S.step(5, 0.3)),
    "MultiStepLR": (lambda o: theirs.MultiStepLR(o, [4, 11], 0.3), S.MultiStepLR([4, 11], 0.3)),
    "multistep": (lambda o: theirs.MultiStepLR(o, [4, 11], 0.3), S.multistep([4, 11], 0.3)),
    "PolynomialLR": (lambda o: theirs.PolynomialLR(o, 20, 2.0), S.PolynomialLR(20, 2.0)),
    "CosineAnnealingLR": (lambda o: theirs.CosineAnnealingLR(o, STEPS, 1e-3),
        S.CosineAnnealingLR(STEPS, 1e-3)),
    "cosine": (lambda o: theirs.CosineAnnealingLR(o, STEPS),
        S.cosine(step_alignment="start")),
    "CosineAnnealingWarmRestarts": (lambda o: theirs.CosineAnnealingWarmRestarts(o, 5, 2),
        S.CosineAnnealingWarmRestarts(5, 2)),
    "CyclicLR": (lambda o: theirs.CyclicLR(o, 0.01, 0.1, 4, cycle_momentum=False),
        S.CyclicLR(0.01, 0.1, 4, cycle_momentum=False)),
    "OneCycleLR": (lambda o: theirs.OneCycleLR(o, [0.1, 0.05], total_steps=STEPS + 1,
        cycle_momentum=False), S.OneCycleLR(total_steps=STEPS + 1, cycle_momentum=False)),
    "LambdaLR": (lambda o: theirs.LambdaLR(o, lambda t: 0.8**t), S.LambdaLR("0.8**step")),
    "lambda": (lambda o: theirs.LambdaLR(o, lambda t: 1 / (1 + t)), S.lambda_("1 / (1 + step)")),
    "MultiplicativeLR": (lambda o: theirs.MultiplicativeLR(o, lambda t: 0.8),
        S.MultiplicativeLR("0.8")),
    "multiplicative": (lambda o: theirs.MultiplicativeLR(o, lambda t: t / (t + 1)),
        S.multiplicative("step / (step + 1)")),
}  # fmt: skip


def reference(make, steps=STEPS):
    """The lrs at each update in the loop of torch's manual."""
    model, optimizer = model_and_optimizer()
    scheduler = make(optimizer)
    seen = []
    for _ in range(steps):
        backward(model)
        seen.append(lrs_of(optimizer))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return seen


@dataclass
class Training:
    """As another Trainer holds them."""

    scheduler: Any
    model: Any
    optimizer: Any


def in_a_tuple(twin, *three):
    return twin(three)


def in_a_dict(twin, model, optimizer, scheduler):
    found = twin({"s": scheduler, "nested": [{"o": optimizer}], "m": model})
    return found["m"], found["nested"][0]["o"], found["s"]


def in_an_object(twin, model, optimizer, scheduler):
    found = twin(Training(scheduler, model, optimizer))
    return found.model, found.optimizer, found.scheduler


def pickled(x):
    return pickle.loads(pickle.dumps(x))


def saved(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def loaded(make, model, optimizer, scheduler, optimizer_first):
    """New objects, with the saved states."""
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    states = torch.load(file)  # plain values only
    others = make()
    places = [0, 1, 2] if optimizer_first else [2, 1, 0]
    for place in places:
        others[place].load_state_dict(states[place])
    return others


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", PAIRS)
def test_whatever_happens_between_updates(name, seed):
    """Random calls of step, skipped updates, copies, pickles and checkpoints."""
    torchs, ours = PAIRS[name]
    expected, chosen = reference(torchs), random.Random(f"{name} {seed}")
    recorder = Recorder()

    def make():
        model, optimizer = model_and_optimizer()
        return model, optimizer, schedule(recorder.of(optimizer), ours, steps=STEPS)

    three = make()
    while len(recorder.seen) < STEPS:
        model, optimizer, scheduler = three
        event = chosen.choice(["update"] * 4 + ["skipped", "step", "step", "zero", "copy"])
        if event == "update":
            backward(model)
            optimizer.step()
            # until the scheduler's step, one reads the lr that the update has used, as with torch's
            assert lrs_of(optimizer) == recorder.seen[-1]
            optimizer.zero_grad()
        elif event == "skipped":
            optimizer.zero_grad()
            optimizer.step()
        elif event == "step" and recorder.seen:
            scheduler.step()
            assert scheduler.last_epoch == len(recorder.seen)
            assert lrs_of(optimizer) == [float(lr) for lr in scheduler.get_last_lr()]
            if scheduler.last_epoch < STEPS:
                assert lrs_of(optimizer) == pytest.approx(expected[scheduler.last_epoch], rel=1e-9)
        elif event == "copy":
            kind = chosen.choice([in_a_tuple, in_a_dict, in_an_object, loaded])
            if kind is loaded:
                three = loaded(make, *three, chosen.random() < 0.5)
            else:
                twin = chosen.choice([copy.deepcopy, pickled, saved])
                three = kind(twin, *three)
                recorder.of(three[1])
    for found, wanted in zip(recorder.seen, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)


def never(t, scheduler):
    pass


def once_per_epoch(t, scheduler):
    if t % 6 == 5:
        scheduler.step()


def thrice(t, scheduler):
    for _ in range(3):
        scheduler.step()


LOOPS = [never, once_per_epoch, thrice]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PAIRS)
def test_however_often_the_loop_steps(name, loop):
    torchs, ours = PAIRS[name]
    model, optimizer = model_and_optimizer()
    recorder = Recorder()
    scheduler = schedule(recorder.of(optimizer), ours, steps=STEPS)
    for t in range(STEPS):
        backward(model)
        optimizer.step()
        loop(t, scheduler)
        optimizer.zero_grad()
    for found, wanted in zip(recorder.seen, reference(torchs), strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)


def roles(groups):
    return [group | {"role": r} for group, r in zip(groups, ("hidden", "other"), strict=True)]


MAKERS: dict[str, Any] = {
    "SGD": torch.optim.SGD,
    "AdamW": AdamW,
    "Muon": lambda groups, lr: Muon(roles(groups), lr=lr),
    "Ema": lambda groups, lr: Ema(AdamW(groups, lr=lr)),
    "Lookahead": lambda groups, lr: Lookahead(torch.optim.SGD(groups, lr=lr)),
    "a tensor lr": lambda groups, lr: torch.optim.Adam(groups, lr, foreach=False),
}


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_optimizers_whose_loop_never_steps(name, with_closure):
    model, optimizer = model_and_optimizer(MAKERS[name], as_tensor=name == "a tensor lr")
    held = [group["lr"] for group in optimizer.param_groups]
    scheduler = schedule(optimizer, S.StepLR(3, 0.5))
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    def record(*_):
        seen.append(lrs_of(optimizer))

    getattr(optimizer, "base", optimizer).register_step_post_hook(record)
    for _ in range(8):
        if with_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    wanted = reference(lambda o: theirs.StepLR(o, 3, 0.5), 8)
    assert seen == [pytest.approx(lrs) for lrs in wanted]
    assert scheduler.last_epoch == 7  # the last update has no step after it yet
    if name == "a tensor lr":  # it is filled in place
        assert all(a is g["lr"] for a, g in zip(held, optimizer.param_groups, strict=True))


def test_an_optimizer_that_reads_its_lr_before_the_closure():
    """LBFGS does; it is right there too."""
    model = torch.nn.Linear(3, 1).double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    scheduler = schedule(optimizer, S.LambdaLR("0.0 ** step"))  # only the first update has an lr
    optimizer.step(closure)
    after = model.weight.detach().clone()
    optimizer.step(closure)
    optimizer.step(closure)
    assert torch.equal(model.weight, after)
    assert scheduler.last_epoch == 2


@pytest.mark.parametrize("last_epoch", [0, 5])
@pytest.mark.parametrize("name", ["LinearLR", "ExponentialLR", "cosine", "LambdaLR"])
def test_last_epoch_resumes(name, last_epoch):
    torchs, ours = PAIRS[name]
    expected = reference(torchs)
    model, optimizer = model_and_optimizer()
    for group, lr in zip(optimizer.param_groups, expected[last_epoch], strict=True):
        group["initial_lr"], group["lr"] = group["lr"], lr
    recorder = Recorder()
    scheduler = schedule(recorder.of(optimizer), ours, steps=STEPS, last_epoch=last_epoch)
    assert scheduler.last_epoch == last_epoch + 1
    for _ in range(STEPS - last_epoch - 1):
        backward(model)
        optimizer.step()
        scheduler.step()
    for found, wanted in zip(recorder.seen, expected[last_epoch + 1 :], strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)


def test_a_shallow_copy_moves_only_when_it_is_stepped():
    """As torch's: the original goes on alone."""
    model, optimizer = model_and_optimizer()
    recorder = Recorder()
    scheduler = schedule(recorder.of(optimizer), S.ExponentialLR(0.9))
    other = copy.copy(scheduler)
    for _ in range(5):
        backward(model)
        optimizer.step()
    assert [lrs[0] for lrs in recorder.seen] == pytest.approx([0.1 * 0.9**t for t in range(5)])
    assert (scheduler.last_epoch, other.last_epoch) == (4, 0)


def test_each_of_two_optimizers_has_its_own_count():
    pairs = [model_and_optimizer() for _ in range(2)]
    recorders = [Recorder(), Recorder()]
    schedulers = [
        schedule(recorder.of(optimizer), S.ExponentialLR(0.9))
        for recorder, (_, optimizer) in zip(recorders, pairs, strict=True)
    ]
    for t in range(12):
        for place, (model, optimizer) in enumerate(pairs):
            if place == 0 or t % 3 == 0:
                backward(model)
                optimizer.step()
                optimizer.zero_grad()
    for recorder, steps in zip(recorders, (12, 4), strict=True):
        assert [lrs[0] for lrs in recorder.seen] == pytest.approx(
            [0.1 * 0.9**t for t in range(steps)]
        )
    assert [scheduler.last_epoch for scheduler in schedulers] == [11, 3]


def test_a_group_that_is_added_later_follows():
    model, optimizer = model_and_optimizer()
    scheduler = schedule(optimizer, S.ExponentialLR(0.9))
    for t in range(6):
        if t == 3:
            head = torch.nn.Parameter(torch.ones(2))
            optimizer.add_param_group({"params": [head], "lr": 0.7})
        backward(model)
        optimizer.step()
        scheduler.step()
    assert lrs_of(optimizer) == pytest.approx([0.1 * 0.9**6, 0.05 * 0.9**6, 0.7 * 0.9**6])


def test_a_length_in_epochs_is_noticed():
    model, optimizer = model_and_optimizer()
    scheduler = schedule(optimizer, S.cosine(), steps=3)
    for _ in range(4):
        backward(model)
        optimizer.step()
    with pytest.warns(UserWarning, match="is called once in 4 updates: steps counts updates, such"):
        scheduler.step()


@pytest.mark.parametrize(
    ("make", "learns"), [(S.cosine, False), (partial(S.cosine, min_lr_ratio=0.1), True)]
)
def test_an_lr_of_0_after_the_end_is_noticed_once(make, learns):
    model, optimizer = model_and_optimizer()
    scheduler = schedule(optimizer, make(), steps=20)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for count in range(1, 30):
            backward(model)
            optimizer.step()
            scheduler.step()
            assert len(seen) == (count > 23 and not learns)  # not by rounding alone
    told = "20 steps is over, and the training goes on with an lr of 0"
    assert all(told in str(one.message) for one in seen)


def test_the_state_of_another_scheduler():
    _, optimizer = model_and_optimizer()
    of_torch = theirs.StepLR(optimizer, 3).state_dict()
    for state in ({}, of_torch):
        with pytest.raises(UsageError, match="is not of a schedule of lit_optim: it has no"):
            schedule(optimizer, S.step(3)).load_state_dict(state)
    with pytest.raises(UsageError, match="is of another schedule: it remembers best"):
        schedule(optimizer, S.step(3)).load_state_dict(
            schedule(optimizer, S.plateau()).state_dict()
        )
