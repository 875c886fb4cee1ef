"""Complex parameters: each is two real ones, as in torch; what looks at more refuses them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of, made_by

RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
SETTINGS = [(name, settings) for name in RULES for settings in CASES[name].settings]
COMPARED = [(name, settings) for name, settings in SETTINGS if CASES[name].counterpart is not None]
SHAPES = [(3, 4), (5,), ()]


def parameters(dtype=torch.complex128):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, dtype=torch.complex128, generator=generator).to(dtype))
        for s in SHAPES
    ]


def run(optimizer, params, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            shape = p.shape if p.is_complex() else p.shape[:-1]
            g = torch.randn(shape, dtype=torch.complex128, generator=generator)
            p.grad = (g if p.is_complex() else torch.view_as_real(g)).to(p.dtype)
        optimizer.step()


def equal(ours, theirs, close=1e-12):
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=close, atol=close)


@pytest.fixture(autouse=True)
def numbers_in_float64():
    """torch keeps some of its numbers in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("name", "settings"), COMPARED, ids=str)
def test_equals_torch_and_states_go_from_one_to_the_other(name, settings, foreach):
    make = partial(CASES[name].counterpart, foreach=foreach)
    mine, theirs = parameters(), parameters()
    ours, torchs = class_of(name)(mine, **settings), make(theirs, **settings)
    run(ours, mine, 0, 8)
    run(torchs, theirs, 0, 8)
    equal(mine, theirs)
    for p, q in zip(mine, theirs, strict=True):
        for key, value in torchs.state[q].items():
            if torch.is_tensor(value) and value.shape == q.shape and key in ours.state[p]:
                kept = ours.state[p][key]
                if torch.is_tensor(kept):
                    assert kept.dtype == value.dtype
                    torch.testing.assert_close(kept, value, rtol=1e-12, atol=1e-12)
    ours_next, torchs_next = class_of(name)(theirs), make(mine)
    ours_next.load_state_dict(torchs.state_dict())
    torchs_next.load_state_dict(ours.state_dict())
    run(ours_next, theirs, 8, 15)
    run(torchs_next, mine, 8, 15)
    equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_equals_the_rule_on_the_parts(name, dtype):
    """A dimension more, of 2: a scalar is then a vector, and a vector a matrix."""
    ours = parameters(dtype)
    parts = [torch.nn.Parameter(torch.view_as_real(p.detach().clone())) for p in ours]
    settings = {"optimize_1d": True} if name == "mars" else {}
    run(class_of(name)(ours, **settings), ours, 0, 8)
    run(class_of(name)(parts, **settings, executor="torch"), parts, 0, 8)
    close = 1e-12 if dtype == torch.complex128 else 1e-5
    equal([torch.view_as_real(p) for p in ours], parts, close)


@pytest.mark.parametrize("name", RULES)
def test_a_state_goes_on_to_the_bit(name):
    straight, resumed = parameters(), parameters()
    run(class_of(name)(straight), straight, 0, 12)
    first = class_of(name)(resumed)
    run(first, resumed, 0, 5)
    second = class_of(name)(resumed)
    second.load_state_dict(first.state_dict())
    run(second, resumed, 5, 12)
    assert all(torch.equal(p, q) for p, q in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*RULES, "lbfgs")])
def test_others_refuse_them_when_they_are_made(name):
    p = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"does not support complex"):
        class_of(name)([p])
    optimizer = made_by(name)([torch.nn.Parameter(torch.ones(2, 2))])
    if name != "sparse_adam":  # torch's own, which looks when it is made
        with pytest.raises(UsageError, match="does not support complex parameters, such as"):
            optimizer.add_param_group({"params": [p]})


def test_what_is_for_real_parameters_only():
    for options in ({"state_dtype": "int8"}, {"state_dtype": "bfloat16"}):
        with pytest.raises(UsageError, match="is for real parameters, and these are complex"):
            class_of("adamw")(parameters(), **options)
    params = parameters()
    optimizer = class_of("adamw")(params, executor="native")
    with pytest.raises(UsageError, match=r"executor=native: .* has no native kernel"):
        run(optimizer, params, 0, 1)


def test_lbfgs_takes_them_as_torchs_does():
    found = []
    for make in (class_of("lbfgs"), torch.optim.LBFGS):
        params = parameters()
        optimizer = make(params, line_search_fn="strong_wolfe")

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum((p - 1 - 2j).abs().square().sum() for p in params)
            loss.backward()
            return loss

        optimizer.step(closure)
        found.append(params)
    equal(*found)
    assert all((p - 1 - 2j).abs().max() < 1e-4 for p in found[0])
