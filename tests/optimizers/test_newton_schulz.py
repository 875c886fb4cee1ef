"""The Newton-Schulz iteration on Gram matrices, and the symmetric products that it is made of.

Several steps on one Gram matrix are another order of the same products: equal in float64, and as
near to it in float32 and bfloat16 as steps that are made one by one on the matrix.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lit_optim
from lit_optim.optimizers.base import newton_schulz, orthogonal, pieces, symmetric
from lit_optim.optimizers.base.newton_schulz import (
    POLYNOMIALS,
    divide_steps,
    list_polynomials,
    orthogonalize,
    orthogonalize_flops,
)
from lit_optim.optimizers.base.symmetric import cost_of_symmetric, multiply_symmetric
from tests.optimizers.oracles_matrix import polar


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(kind, m, n):
    """A matrix [m, n] whose singular values fall evenly, are one large one, or half of them."""
    size = min(m, n)
    values = torch.logspace(0, -3, size, dtype=torch.float64)
    if kind != "falling":
        values = torch.full((size,), 1e-2 if kind == "one" else 1e-3, dtype=torch.float64)
        values[: 1 if kind == "one" else size // 2] = 1.0
    u, v = (torch.linalg.qr(drawn(side, size, seed=side))[0] for side in (m, n))
    return u * values @ v.T


@pytest.fixture
def one_by_one(monkeypatch):
    """Orthogonalize with a Gram matrix for each step, as published."""

    def alone(coefficients, steps, *_):
        return [[polynomial] for polynomial in list_polynomials(coefficients, steps)]

    def compute(*args):
        with monkeypatch.context() as patch:
            patch.setattr(newton_schulz, "divide_steps", alone)
            return orthogonalize(*args)

    return compute


@pytest.mark.parametrize("m", [7, 12, 13, 30])
@pytest.mark.parametrize("has_addend", [False, True])
def test_a_symmetric_product_is_whole(m, has_addend, monkeypatch):
    monkeypatch.setattr(symmetric, "height_of_strip", lambda m: 6)
    monkeypatch.setattr(symmetric, "SIDE", 7)
    x = drawn(m, 5)
    more = ((x @ x.T).add_(1.0), -0.5) if has_addend else ()
    found = multiply_symmetric(x, x.T, 0.25, *more)
    expected = 0.25 * (x @ x.T) + (more[1] * more[0] if more else 0)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    upper = torch.ones(m, m).triu(6).bool()
    assert torch.equal(found[upper], found.T[upper])  # copied, not computed


@pytest.mark.parametrize("m", [100, 512, 768, 800, 1100])
def test_what_is_counted_of_a_symmetric_product_is_computed(m, monkeypatch):
    counted = []
    real = torch.addmm

    def addmm(add, a, b, **how):
        counted.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return real(add, a, b, **how)

    monkeypatch.setattr(torch, "addmm", addmm)
    x = torch.zeros(m, 4)
    multiply_symmetric(x, x.T, 1.0, torch.zeros(m, m), 1.0)
    assert sum(counted) == cost_of_symmetric(m, 4)
    assert sum(counted) <= (1.0 if m < symmetric.SIDE else 0.66) * 2 * m * m * 4


@pytest.mark.parametrize("shape", [(3, 64, 200), (2, 200, 64), (1, 96, 300), (2, 48, 48)])
@pytest.mark.parametrize("coefficients", ["original", "quintic", (2.0, -1.5, 0.5)], ids=str)
@pytest.mark.parametrize("steps", [None, 1, 2, 7])
def test_steps_on_a_gram_matrix_are_the_published_ones(shape, coefficients, steps, monkeypatch):
    """The singular values by the polynomials themselves, in float64."""
    monkeypatch.setattr(symmetric, "SIDE", 60)  # with and without strips
    monkeypatch.setattr(newton_schulz, "ALONE", 60)
    x = drawn(*shape)
    found = orthogonalize(x, coefficients, steps, 1e-7)
    expected = np.stack([polar(one, coefficients, steps) for one in x.numpy()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)
    if steps is None and shape[1] != shape[2]:
        assert [len(part) for part in divide_steps(coefficients, steps, *shape[1:], x.dtype)] == [5]


@pytest.mark.parametrize("shape", [(64, 256), (256, 64)])
@pytest.mark.parametrize("kind", ["falling", "one", "half"])
@pytest.mark.parametrize("coefficients", sorted(POLYNOMIALS))
def test_bfloat16_is_as_near_to_float64_as_step_by_step(coefficients, kind, shape, one_by_one):
    x = with_spectrum(kind, *shape)
    how = coefficients, None, 1e-7
    exact, size = one_by_one(x, *how), x.norm()
    own, published = (
        orthogonal(x.float(), *how, "bfloat16").double() - exact
        for orthogonal in (orthogonalize, one_by_one)
    )
    size = exact.norm()
    assert own.norm() / size < max(1.5 * float(published.norm() / size), 0.04)
    # no direction grows: the negative eigenvalues that rounding makes of small ones would
    assert torch.linalg.matrix_norm(own, 2) < max(
        2 * float(torch.linalg.matrix_norm(published, 2)), 0.15
    )
    in_float32 = orthogonalize(x.float(), *how).double() - exact
    assert in_float32.norm() / size < 2e-3


@pytest.mark.parametrize("others", [0.03, 0.1])
def test_three_steps_on_one_gram_matrix_are_as_near_where_one_direction_dominates(others):
    """The shortest side for which there are three."""
    m, n = 512, 640
    assert len(divide_steps("original", None, m, n, torch.bfloat16)[0]) == 3
    u, v = (torch.linalg.qr(drawn(side, m, seed=side))[0] for side in (m, n))
    values = torch.full((m,), others, dtype=torch.float64)
    values[0] = 1.0
    x = (u * values @ v.T).float()
    values = values / values.norm()
    for a, b, c in POLYNOMIALS["original"]:
        values = a * values + b * values**3 + c * values**5
    exact = (u * values @ v.T).float()
    error = orthogonalize(x, "original", None, 1e-7, "bfloat16") - exact
    assert error.norm() / exact.norm() < 0.04
    assert torch.linalg.matrix_norm(error, 2) < 0.15


def test_segments_end_before_rounding_has_grown():
    def lengths(*args):
        return [len(part) for part in divide_steps(*args)]

    wide = (768, 3072)
    assert lengths("original", None, *wide, torch.bfloat16) == [3, 2]
    assert lengths("quintic", None, *wide, torch.bfloat16) == [2, 2, 1]
    assert lengths("polar_express", None, *wide, torch.bfloat16) == [1, 2, 2]
    assert lengths("polar_express", None, *wide, torch.float32) == [5]
    assert lengths("original", 9, 3072, 768, torch.bfloat16) == [3, 3, 3]
    # the fewer numbers an eigenvalue's error is the sum of, the larger it is
    assert lengths("original", None, 384, 1536, torch.bfloat16) == [2, 2, 1]
    assert lengths("precise", None, 64, 256, torch.bfloat16) == [3, 3, 3, 3]
    assert lengths("original", None, 768, 768, torch.bfloat16) == [1] * 5  # costs no less


@pytest.mark.parametrize("shape", [(768, 768), (768, 1024), (768, 3072), (3072, 768), (32, 5000)])
@pytest.mark.parametrize("coefficients", sorted(POLYNOMIALS))
def test_it_never_costs_more_than_the_published_iteration(coefficients, shape):
    short, long = sorted(shape)
    steps = len(POLYNOMIALS[coefficients])
    published = steps * (4.0 * short * short * long + 2.0 * short**3)
    for dtype in (torch.bfloat16, torch.float32):
        own = orthogonalize_flops(*shape, coefficients, None, dtype)
        assert own <= published
        if short > symmetric.SIDE:
            assert own < 0.8 * published


@pytest.mark.parametrize("alone", [1, 1000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e-16, 1e18, 1e30])
def test_the_size_of_a_matrix_does_not_matter(size, dtype, alone, monkeypatch):
    monkeypatch.setattr(newton_schulz, "ALONE", alone)
    x = drawn(2, 16, 40).float()
    expected = orthogonalize(x, "original", None, 0.0, dtype)
    found = orthogonalize(size * x, "original", None, 0.0, dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.02)


@pytest.mark.parametrize("alone", [1, 1000])
def test_zeros_stay_zeros_beside_others(alone, monkeypatch):
    monkeypatch.setattr(newton_schulz, "ALONE", alone)
    x = torch.stack([drawn(8, 20).float(), torch.zeros(8, 20)])
    for dtype, eps in (("float32", 1e-7), ("bfloat16", 1e-7), ("bfloat16", 0.0)):
        found = orthogonalize(x, "original", None, eps, dtype)
        assert found[0].norm() > 1
        assert not found[1].any()


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(size, monkeypatch):
    monkeypatch.setattr(newton_schulz, "ALONE", 1)
    x = drawn(8, 20).float()
    x[3, 4] = size
    for dtype in ("float32", "bfloat16"):
        assert orthogonalize(x, "original", None, 1e-7, dtype).isnan().all()


OPTIONS = [
    {},
    {"weight_decay": 0.1, "maximize": True, "ns_dtype": "float32"},
    {"weight_decay": 0.1, "nesterov": False},
    {"split": 2},
    {"coupled": True},
    {"cautious": True},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["Muon", "NorMuon", "Scion"])
def test_a_step_in_pieces_has_the_same_bits(name, options, dtype, monkeypatch):
    """Pieces of a few rows, before and after the products, or whole matrices."""
    monkeypatch.setattr(newton_schulz, "ALONE", 16)
    options = {"ns_dtype": "bfloat16"} | options
    if name == "Scion":
        options.pop("nesterov", None)
    keys = {key: options.pop(key) for key in ("split",) if key in options}
    if options.pop("coupled", False):
        options["weight_decay"] = 0.1
        monkeypatch.setattr(getattr(lit_optim, name), "coupled_weight_decay", True)

    def train(is_whole):
        params = [
            torch.nn.Parameter(drawn(*shape, seed=k).to(dtype))
            for k, shape in enumerate([(32, 20), (20, 32), (32, 4, 3, 3), (20, 10)])
        ]
        with monkeypatch.context() as patch:
            if is_whole:
                patch.setattr(orthogonal, "has_plain_update", lambda h: False)
            optimizer = getattr(lit_optim, name)([{"params": params} | keys], **options)
            for step in range(3):
                for k, p in enumerate(params):
                    p.grad = drawn(*p.shape, seed=10 * step + k).to(dtype)
                optimizer.step()
        return params, optimizer.state

    monkeypatch.setattr(pieces, "PIECE", 90)  # norms are added up in the same way
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found, states = train(False)
    expected, of_expected = train(True)
    for p, q in zip(found, expected, strict=True):
        assert torch.equal(p, q)
        for key, value in states[p].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(of_expected[q][key])), key


def test_a_graph_is_given_the_matrices_and_its_result_is_copied(monkeypatch):
    """A stand-in for a CUDA graph, which has one buffer for all arguments and results."""

    class Graph:
        def __init__(self, function, shape, dtype):
            self.function, self.given = function, torch.full(shape, torch.nan, dtype=dtype)

        def replay(self):
            return self.given.copy_(self.function(self.given).view_as(self.given))

    xs = torch.randn(2, 2, 12, 8)
    expected = [orthogonalize(x, "original", None, 1e-7) for x in xs]
    graph = None

    def find(key, function, shape, dtype, device):
        nonlocal graph
        graph = graph or Graph(function, shape, dtype)
        return graph

    monkeypatch.setattr(newton_schulz.graphs, "find", find)
    found = [orthogonalize(x, "original", None, 1e-7) for x in xs]
    assert all(map(torch.equal, found, expected))
