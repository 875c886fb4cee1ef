"""Every optimizer on a GPU does what it does on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, gradients, made_by, parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
#: torch's own classes, which take other parameters or a closure.
OTHERS = {"lbfgs", "sparse_adam", "muon_torch"}
#: Of a convolution's long side few directions are known at first; the others are any basis.
NOT_UNIQUE = {"soap": 3, "shampoo": 3}
OURS = [name for name in NAMES if name not in OTHERS]
SETTINGS = [(name, settings) for name in OURS for settings in CASES[name].settings]


def moved(params):
    return [torch.nn.Parameter(p.detach().cuda()) for p in params]


def trained(optimizer, params, on_gpu, steps):
    pattern = parameters()
    for step in steps:
        gradients(pattern, step)
        for p, q in zip(params, pattern, strict=True):
            p.grad = q.grad if q.grad is None or not on_gpu else q.grad.cuda()
        optimizer.step()


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_equals_the_cpu(name, settings):
    here, there = parameters(), moved(parameters())
    trained(made_by(name)(here, **settings), here, False, range(20))
    trained(made_by(name)(there, **settings), there, True, range(20))
    known = slice(NOT_UNIQUE.get(name))
    for p, q in zip(here[known], there[known], strict=True):
        torch.testing.assert_close(q.detach().cpu(), p.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", OURS)
def test_goes_on_after_it_was_saved(name):
    whole, parts = moved(parameters()), moved(parameters())
    trained(made_by(name)(whole), whole, True, range(8))
    first = made_by(name)(parts)
    trained(first, parts, True, range(4))
    second = made_by(name)(parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    trained(second, parts, True, range(4, 8))
    for p, q in zip(whole, parts, strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=0)
