"""Wrappers of optimizers of complex parameters, compared with real and imaginary parts."""

from __future__ import annotations

import io

import pytest
import torch

from lit_optim.wrappers import Ema, Lookahead, Sam

COMPLEX = (torch.complex64, torch.complex128)


def complex_parameters(dtype, seed=0):
    """Return two complex parameters and a real one between them."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape, kind):
        return torch.nn.Parameter(torch.randn(*shape, dtype=kind, generator=generator))

    real = torch.float64 if dtype == torch.complex128 else torch.float32
    return [numbers(3, 2, kind=dtype), numbers(4, kind=real), numbers(5, kind=dtype)]


def as_real(p):
    return torch.view_as_real(p.detach()).clone() if p.is_complex() else p.detach().clone()


def pull(params):
    """Set the gradients of sum |p - (1 - 2i)|^2, whose real and imaginary parts differ."""
    for p in params:
        p.grad = 2 * (p.detach() - (1 - 2j)) if p.is_complex() else 2 * (p.detach() - 1)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("around", [lambda o: o, lambda o: Lookahead(o, k=2, alpha=0.3)])
def test_the_average_of_complex_parameters_is_that_of_real_and_imaginary_parts(
    dtype, warmup, around
):
    params = complex_parameters(dtype)

    def made():
        return Ema(around(torch.optim.SGD(params, lr=0.1)), decay=0.8, warmup=warmup)

    optimizer = made()
    average = [as_real(p).double() for p in params]
    for t in range(1, 8):
        pull(params)
        optimizer.step()
        d = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        average = [
            d * e + (1 - d) * as_real(p).double() for e, p in zip(average, params, strict=True)
        ]
        if t == 4:  # saved, and gone on from
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = made()
            optimizer.load_state_dict(torch.load(file, weights_only=True))
    trained = [p.detach().clone() for p in params]
    optimizer.eval()
    rtol = 1e-12 if dtype == torch.complex128 else 1e-5
    for p, e in zip(params, average, strict=True):
        torch.testing.assert_close(as_real(p).double(), e, rtol=rtol, atol=rtol)
    optimizer.train()
    assert all(torch.equal(p, q) for p, q in zip(params, trained, strict=True))


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex32, *COMPLEX])
def test_averages_of_complex_parameters_are_complex(dtype):
    p = torch.nn.Parameter(torch.full((3,), 1 + 1j if dtype.is_complex else 1, dtype=dtype))
    optimizer = Ema(torch.optim.SGD([p], lr=0.0, foreach=False))
    optimizer.base.step = lambda closure=None: None  # torch adds no complex32
    optimizer.step()
    [kept] = optimizer.average.values()
    assert kept.is_complex() == p.is_complex()
    assert kept.dtype.itemsize >= (8 if p.is_complex() else 4)
    torch.testing.assert_close(kept.to(torch.complex64), p.detach().to(torch.complex64))


@pytest.mark.parametrize("dtype", COMPLEX)
def test_lookahead_of_complex_parameters_is_that_of_real_and_imaginary_parts(dtype):
    params, parts = complex_parameters(dtype), [as_real(p) for p in complex_parameters(dtype)]
    optimizer = Lookahead(torch.optim.SGD(params, lr=0.1), k=2, alpha=0.3)
    slow = [p.clone() for p in parts]
    target = torch.tensor([1.0, -2.0])
    for t in range(1, 8):
        pull(params)
        optimizer.step()
        parts = [p - 0.2 * (p - (target.to(p) if p.shape[-1] == 2 else 1)) for p in parts]
        if t % 2 == 0:
            slow = parts = [s + 0.3 * (p - s) for s, p in zip(slow, parts, strict=True)]
    for p, q in zip(params, parts, strict=True):
        torch.testing.assert_close(as_real(p), q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_sam_perturbs_complex_parameters_by_their_moduli(adaptive, seed):
    """Compared with SAM on real and imaginary parts, scaled by the modulus of each number."""
    if seed is None:
        params = [torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))]
    else:
        params = complex_parameters(torch.complex128, seed)
    optimizer = Sam(torch.optim.SGD(params, lr=0.0), rho=0.5, adaptive=adaptive)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append([as_real(p) for p in params])
        loss = sum(p.abs().square().sum() for p in params)
        loss.backward()
        return loss

    optimizer.step(closure)
    before, above = seen
    units = []
    for p, parts in zip(params, before, strict=True):
        unit = parts.square().sum(-1, keepdim=True).sqrt() if p.is_complex() else parts.abs()
        units.append(unit if adaptive else torch.ones_like(unit))
    pairs = [(u, 2 * parts) for u, parts in zip(units, before, strict=True)]
    norm = sum((u * g).square().sum() for u, g in pairs).sqrt()
    for old, new, (u, g) in zip(before, above, pairs, strict=True):
        torch.testing.assert_close(new - old, 0.5 * u.square() * g / norm, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(as_real(p), old) for p, old in zip(params, before, strict=True))
