"""How every optimizer is used: closures, copies, groups, and what it refuses in a line."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.optimizers.cases import CASES
from tests.optimizers.running import (
    NAMES,
    WALKS,
    class_of,
    defaults_of,
    difference,
    gradients,
    made_by,
    parameters,
    run,
    two_groups,
)


@pytest.mark.parametrize("name", WALKS)
def test_closure_deepcopy_and_pickle(name):
    params = parameters()
    optimizer = made_by(name)(params)

    def closure():
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params) / 4
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    assert first == pytest.approx(sum((p**2).sum() for p in parameters()).item() / 4)
    optimizer.step(closure)  # ADOPT moves from here on
    assert optimizer.step(closure).item() < first
    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin = duplicate(optimizer)
        copies = [p for group in twin.param_groups for p in group["params"]]
        theirs = [p.detach().clone() for p in params]
        run(optimizer, params, 7, 10)  # an odd number: Lion's steps of one size may cancel out
        run(twin, copies, 7, 10)
        assert difference(params, copies) == 0
        for p, value in zip(params, theirs, strict=True):
            assert not torch.equal(p, value)


#: each group, and each parameter, is stepped as if it were the only one, and may be that
APART_FROM_OTHERS = [n for n in WALKS if not {"one_lr", "roles"} & set(class_of(n).requirements)]


@pytest.mark.parametrize("name", APART_FROM_OTHERS)
def test_groups_have_their_own_lr(name):
    settings = CASES[name].settings[-1]
    together, apart = parameters(), parameters()
    groups = two_groups(together, name, settings)
    run(made_by(name)(groups, **settings), together, 0, 12)
    for group in two_groups(apart, name, settings):
        run(made_by(name)([group], **settings), apart, 0, 12)
    same_lr = parameters()
    run(made_by(name)(same_lr, **settings), same_lr, 0, 12)
    # matrices of one shape are multiplied in batches, and in others when there are fewer
    assert difference(together, apart) <= (0 if issubclass(class_of(name), Elementwise) else 1e-12)
    assert difference(together[:2], same_lr[:2]) == 0
    assert difference(together[2:], same_lr[2:]) > 0


@pytest.mark.parametrize("name", APART_FROM_OTHERS)
def test_who_wakes_late_starts_then(name):
    settings = CASES[name].settings[-1]
    all_, late = parameters(), parameters()
    run(made_by(name)(all_, **settings), all_, 0, 12)
    run(made_by(name)(late[1:2], **settings), late, 5, 12)  # where its first gradient comes
    assert torch.equal(all_[1], late[1])


@pytest.mark.parametrize("name", WALKS)
def test_a_closure_is_called_once_with_gradients(name):
    params, called = parameters(), []
    optimizer = made_by(name)(params)

    def closure():
        called.append(torch.is_grad_enabled())
        gradients(params, 9)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert called == [True]
    without = parameters()
    gradients(without, 9)
    assert made_by(name)(without).step() is None
    assert difference(params, without) == 0


@pytest.mark.parametrize("name", NAMES)
def test_refuses_nonsense_in_one_line(name):
    params = [torch.nn.Parameter(torch.zeros(2, 2))]
    make, hyper = class_of(name), defaults_of(class_of(name))
    for bad in (-1.0, -1e-300, float("nan"), float("inf"), "abc", None, True):
        if bad is None and hyper["lr"] is None:
            continue
        with pytest.raises(
            UsageError, match=r"^lr must be a number >=? 0( or null)?, got"
        ) as error:
            make(params, lr=bad)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError):
        make(params, lrr=1.0)
    with pytest.raises(UsageError, match=r"has no 'lrr'|sets lrr"):
        make([{"params": params, "lrr": 1.0}])
    refusal = "weight_decay must be a number >= 0" if "weight_decay" in hyper else "weight_decay"
    with pytest.raises(UsageError, match=refusal):
        make([{"params": params, "weight_decay": -1.0}])


@pytest.mark.parametrize("name", NAMES)
def test_takes_groups_that_were_made_for_any(name):
    p, q = (torch.nn.Parameter(torch.full((2, 2), 0.5)) for _ in range(2))
    given = [
        {"name": "decay", "params": [p], "param_names": ["p"]},
        {"name": "no_decay", "params": [q], "param_names": ["q"], "weight_decay": 0.0},
    ]
    before = [group.copy() for group in given]
    optimizer = made_by(name)(given)
    assert given == before
    assert [n for group in optimizer.param_groups for n in group["param_names"]] == ["p", "q"]

    def closure():
        optimizer.zero_grad()
        loss = ((p**2).sum() + (q**2).sum()) / 4
        loss.backward()
        return loss

    first = optimizer.step(closure)
    optimizer.step(closure)  # ADOPT moves from here on
    assert first > closure()


@pytest.mark.parametrize("name", [name for name in WALKS if not class_of(name).takes_sparse])
def test_sparse_gradients_are_refused(name):
    p = torch.nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        made_by(name)([p]).step()


def test_lazy_names():
    import lit_optim

    for name in NAMES:
        assert getattr(lit_optim, class_of(name).__name__) is class_of(name)
    with pytest.raises(AttributeError):
        _ = lit_optim.NoSuchOptimizer
