"""Every optimizer on a GPU does what it does on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_optim.kernels import graphs
from lit_optim.optimizers.base.newton_schulz import orthogonalize
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


@pytest.fixture
def no_graphs(monkeypatch):
    for known in ("_graphs", "_streams"):
        monkeypatch.setattr(graphs, known, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_graph_computes_what_its_kernels_do(dtype, no_graphs, monkeypatch):
    """For several shapes in turn, which share memory; results that are kept stay as they are."""
    shapes, kept = [(2, 96, 64), (1, 64, 160), (3, 40, 40)], []
    for _ in range(4):
        for shape in shapes:
            x = torch.randn(shape, device="cuda")
            found = orthogonalize(x, "original", None, 1e-7, dtype)
            with monkeypatch.context() as patch:
                patch.setattr(graphs, "LARGEST", 0)
                kept.append((found, orthogonalize(x, "original", None, 1e-7, dtype)))
    assert [type(graph) for graph in graphs._graphs.values()] == [graphs.Graph] * 3
    for found, expected in kept:
        assert torch.equal(found, expected)


def test_a_step_that_is_captured_captures_nothing_itself(no_graphs):
    x = torch.randn(2, 96, 64, device="cuda")
    expected = [orthogonalize(x, "original", None, 1e-7, "bfloat16") for _ in range(3)][-1]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = orthogonalize(x, "original", None, 1e-7, "bfloat16")
    graph.replay()
    assert torch.equal(found, expected)


def test_what_cannot_be_captured_is_computed_all_the_same(no_graphs, caplog):
    def read(x):
        return x * float(x.sum())  # which waits for the GPU

    x = torch.ones(2, device="cuda")
    place = tuple(x.shape), x.dtype, x.device
    assert [graphs.find("read", read, *place) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert torch.randn(2, device="cuda").isfinite().all(), "torch draws random numbers again"
    assert [graphs.find("add", torch.add, *place) for _ in range(2)] == [None] * 2
