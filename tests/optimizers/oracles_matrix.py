"""The papers of matrix methods again, in float64 numpy: `oracle(p, gradients, **hyper)`.

The parameter is a whole array; one of more than two dimensions is taken as [first, all the others].
An iteration that carries singular values towards 1 is done on the singular values themselves.
"""

from __future__ import annotations

import math

import numpy as np

ORIGINAL = (3.4445, -4.7750, 2.0315)
QUINTIC = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


def polar(x, coefficients="original", steps=None, eps=1e-7):
    """U f(S) Vᵀ of x / max(|x|, eps)."""
    named = {"original": [ORIGINAL] * 5, "quintic": QUINTIC, "precise": [(2.0, -1.5, 0.5)] * 12}
    series = named[coefficients] if isinstance(coefficients, str) else [coefficients] * 5
    if steps is not None:
        series = [series[min(k, len(series) - 1)] for k in range(steps)]
    u, s, vt = np.linalg.svd(x / max(np.sqrt((x * x).sum()), eps), full_matrices=False)
    for a, b, c in series:
        s = a * s + b * s**3 + c * s**5
    return u @ np.diag(s) @ vt


def by_shape(adjust, m, n):
    return {
        "original": math.sqrt(max(1, m / n)),
        "match_rms_adamw": 0.2 * math.sqrt(max(m, n)),
        "spectral": math.sqrt(m / n),
    }[adjust]


def muon(
    p,
    gradients,
    lr=0.02,
    momentum=0.95,
    nesterov=True,
    weight_decay=0.0,
    ns_coefficients="original",
    ns_steps=None,
    eps=1e-7,
    adjust_lr_fn="original",
    beta2=None,
):
    x = p.reshape(len(p), -1)
    buffer, rows = np.zeros_like(x), np.zeros((len(x), 1))
    for gradient in gradients:
        g = gradient.reshape(x.shape)
        buffer = momentum * buffer + (1 - momentum) * g
        u = momentum * buffer + (1 - momentum) * g if nesterov else buffer
        u = polar(u, ns_coefficients, ns_steps, eps)
        if beta2 is not None:
            rows = beta2 * rows + (1 - beta2) * (u * u).mean(1, keepdims=True)
            norm = np.sqrt((u * u).sum())
            u = u / (np.sqrt(rows) + 1e-10)
            u = u * norm / (np.sqrt((u * u).sum()) + 1e-10)
        x = x - lr * weight_decay * x - lr * by_shape(adjust_lr_fn, *x.shape) * u
        yield x.reshape(p.shape)


def normuon(p, gradients, beta2=0.95, **hyper):
    return muon(p, gradients, beta2=beta2, **hyper)


def scion(
    p,
    gradients,
    lr=5e-4,
    momentum=0.9,
    rho=50.0,
    weight_decay=1.0,
    ns_coefficients="original",
    ns_steps=None,
    eps=1e-7,
):
    x = p.reshape(len(p), -1)
    d, (m, n) = np.zeros_like(x), x.shape
    for g in gradients:
        d = momentum * d + (1 - momentum) * g.reshape(x.shape)
        lmo = -rho * math.sqrt(m / n) * polar(d, ns_coefficients, ns_steps, eps)
        x = (1 - lr * weight_decay) * x + lr * lmo
        yield x.reshape(p.shape)


def turns_of(m, n, period, longest):
    """When the sides of a matrix that is alone are refreshed: the longer one, then the other."""
    sides = [(-size, side) for size, side in ((m, "left"), (n, "right")) if size <= longest]
    return {side: i % period for i, (_, side) in enumerate(sorted(sides))}


def soap(
    p,
    gradients,
    lr=3e-3,
    betas=(0.95, 0.95),
    eps=1e-8,
    weight_decay=0.01,
    precondition_frequency=10,
    max_precondition_dim=10_000,
):
    x = p.reshape(len(p), -1)
    m, n = x.shape
    left, right = np.zeros((m, m)), np.zeros((n, n))
    first, second = np.zeros_like(x), np.zeros_like(x)  # the first one not in the eigenbasis
    ql, qr = np.eye(m), np.eye(n)
    b1, b2 = betas
    turns = turns_of(m, n, precondition_frequency, max_precondition_dim)
    for k, gradient in enumerate(gradients):
        g = gradient.reshape(x.shape)
        if k:
            first = b1 * first + (1 - b1) * g
            turned = ql.T @ g @ qr
            second = b2 * second + (1 - b2) * turned**2
            scaled = (ql.T @ first @ qr) / (np.sqrt(second) + eps)
            step = lr * math.sqrt(1 - b2**k) / (1 - b1**k)
            x = x - lr * weight_decay * x - step * (ql @ scaled @ qr.T)
        left = b2 * left + (1 - b2) * g @ g.T
        right = b2 * right + (1 - b2) * g.T @ g
        if k == 0:
            if m <= max_precondition_dim:
                ql = np.linalg.eigh(left)[1][:, ::-1]
            if n <= max_precondition_dim:
                qr = np.linalg.eigh(right)[1][:, ::-1]
        if k and "left" in turns and k % precondition_frequency == turns["left"]:
            order = np.argsort(-np.diag(ql.T @ left @ ql))
            ql, second = np.linalg.qr(left @ ql[:, order])[0], second[order]
        if k and "right" in turns and k % precondition_frequency == turns["right"]:
            order = np.argsort(-np.diag(qr.T @ right @ qr))
            qr, second = np.linalg.qr(right @ qr[:, order])[0], second[:, order]
        yield x.reshape(p.shape)


def shampoo(
    p,
    gradients,
    lr=1e-3,
    betas=(0.95, 0.95),
    eps=1e-8,
    weight_decay=0.01,
    precondition_frequency=10,
    max_precondition_dim=4096,
    matrix_eps=1e-12,
    block_size=512,
):
    x = p.reshape(len(p), -1)
    b1, b2 = betas
    every, (m, n) = precondition_frequency, x.shape
    lengths = {"left": m, "right": n}
    sides = [side for side, size in lengths.items() if size <= max_precondition_dim]
    for side in sides:
        most = min(lengths[side], block_size or lengths[side])
        lengths[side] = max(k for k in range(1, most + 1) if lengths[side] % k == 0)
    a, b = lengths.values()
    blocks = [(slice(i, i + a), slice(j, j + b)) for i in range(0, m, a) for j in range(0, n, b)]
    order = sorted(sides, key=lambda side: -lengths[side])
    turns = {side: i % every for i, side in enumerate(order)}
    factors = {side: [np.zeros((lengths[side],) * 2) for _ in blocks] for side in sides}
    vectors, roots = {}, {}
    first, second = np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient.reshape(x.shape)
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
        adam = first / (1 - b1**t) / (np.sqrt(second / (1 - b2**t)) + eps)
        u = np.zeros_like(x)
        for place, block in enumerate(blocks):
            part, products = g[block], first[block]
            for side in sides:
                square = part @ part.T if side == "left" else part.T @ part
                factor = b2 * factors[side][place] + (1 - b2) * square
                factors[side][place], key = factor, (side, place)
                if t >= every and t % every == turns[side]:
                    if key not in vectors:
                        values, vectors[key] = np.linalg.eigh(factor)
                    else:
                        q = vectors[key]
                        q = q[:, np.argsort(-np.diag(q.T @ factor @ q))]
                        vectors[key], triangle = np.linalg.qr(factor @ q)
                        values = np.abs(np.diag(triangle))
                    values = np.maximum(values / (1 - b2**t), 0) + matrix_eps
                    scaled = vectors[key] * values ** (-1 / (2 * len(sides)))
                    roots[key] = scaled @ vectors[key].T
            if all((side, place) in roots for side in sides):
                for side in sides:
                    root = roots[side, place]
                    products = root @ products if side == "left" else products @ root
                u[block] = products
        if (u**2).sum() == 0 or not sides:
            u = adam
        else:
            u = u * np.sqrt((adam**2).sum() / (u**2).sum())
        x = x - lr * (u + weight_decay * x)
        yield x.reshape(p.shape)
