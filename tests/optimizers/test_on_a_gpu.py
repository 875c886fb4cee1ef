"""Every optimizer on a GPU does what it does on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_optim.optimizers.walk import Walk
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of, gradients, made_by, parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
NEED_A_CLOSURE = {"lbfgs"}
#: Matrix products in bfloat16 on a GPU: one of many directions may differ by so much.
IN_BFLOAT16 = {"muon", "normuon", "scion", "muon_torch"}
SETTINGS = [(name, settings) for name in NAMES for settings in CASES[name][2]]


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
    if name in NEED_A_CLOSURE or name == "sparse_adam":
        pytest.skip("its own test gives it what it needs; it is torch's class")
    here, there = parameters(), moved(parameters())
    trained(made_by(name)(here, **settings), here, False, range(20))
    trained(made_by(name)(there, **settings), there, True, range(20))
    close = 0.1 if name in IN_BFLOAT16 else 1e-8
    for p, q in zip(here, there, strict=True):
        torch.testing.assert_close(q.detach().cpu(), p.detach(), rtol=close, atol=close)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_after_it_was_saved(name):
    if name in NEED_A_CLOSURE or name == "sparse_adam" or not issubclass(class_of(name), Walk):
        pytest.skip("it is torch's class")
    whole, parts = moved(parameters()), moved(parameters())
    trained(made_by(name)(whole), whole, True, range(8))
    first = made_by(name)(parts)
    trained(first, parts, True, range(4))
    second = made_by(name)(parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    trained(second, parts, True, range(4, 8))
    for p, q in zip(whole, parts, strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=0)
