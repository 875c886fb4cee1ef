"""The papers again, one plain float64 function per algorithm.

Written from the update rules, not from our code: `oracle(p, gradients, **hyper)` yields the
parameter after each update, one number that stands for a coordinate.
"""

from __future__ import annotations

import math

import numpy as np


def adamw(p, gradients, lr=1e-3, weight_decay=1e-2, **hyper):
    return _adam(p, gradients, lr, decoupled=weight_decay, coupled=0.0, **hyper)


def adam(p, gradients, lr=1e-3, weight_decay=0.0, decoupled_weight_decay=False, **hyper):
    decay = {"decoupled": 0.0, "coupled": 0.0}
    decay["decoupled" if decoupled_weight_decay else "coupled"] = weight_decay
    return _adam(p, gradients, lr, **decay, **hyper)


def _adam(p, gradients, lr, decoupled, coupled, betas=(0.9, 0.999), eps=1e-8, amsgrad=False):
    m = v = v_max = 0.0
    for t, g in enumerate(gradients, 1):
        g = g + coupled * p
        p -= lr * decoupled * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        v_max = max(v_max, v)
        v_hat = (v_max if amsgrad else v) / (1 - betas[1] ** t)
        p -= lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v_hat) + eps)
        yield p


def lion(p, gradients, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    m = 0.0
    for g in gradients:
        c = betas[0] * m + (1 - betas[0]) * g
        p = p - lr * ((c > 0) - (c < 0)) - lr * weight_decay * p
        m = betas[1] * m + (1 - betas[1]) * g
        yield p


def ademamix(
    p,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999, 0.9999),
    alpha=2.0,
    t_alpha_beta3=None,
    eps=1e-8,
    weight_decay=1e-2,
):
    m1 = m2 = v = 0.0
    b1, b2, b3 = betas
    for t, g in enumerate(gradients, 1):
        a = 1.0 if t_alpha_beta3 is None else min(1.0, t / t_alpha_beta3)
        # the paper's form: half-lives in between, so logarithms of beta
        above, below = math.log(b1) * math.log(b3), (1 - a) * math.log(b3) + a * math.log(b1)
        slow = min(math.exp(above / below), b3)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        v = b2 * v + (1 - b2) * g * g
        u = (m1 / (1 - b1**t) + alpha * a * m2) / (math.sqrt(v / (1 - b2**t)) + eps)
        p = p - lr * (u + weight_decay * p)
        yield p


def sgd(p, gradients, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    b = None
    for g in gradients:
        g = g + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p -= lr * g
        yield p


def adagrad(
    p,
    gradients,
    lr=1e-2,
    lr_decay=0.0,
    weight_decay=0.0,
    initial_accumulator_value=0.0,
    eps=1e-10,
):
    total = initial_accumulator_value
    for t, g in enumerate(gradients, 1):
        g = g + weight_decay * p
        total += g * g
        p -= lr / (1 + (t - 1) * lr_decay) * g / (math.sqrt(total) + eps)
        yield p


def nag(p, gradients, lr=1e-3, momentum=0.9, weight_decay=0.0):
    """As Sutskever et al. write it: theta walks, p is the point ahead of it."""
    v, theta = 0.0, p
    for g in gradients:
        v = momentum * v - lr * (g + weight_decay * p)
        theta = theta + v
        p = theta + momentum * v
        yield p


def adamw_hf(
    p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True
):
    """As transformers' documentation and BERT's code have it: the decay comes last."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step_size = lr
        if correct_bias:
            step_size = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        p = p - step_size * m / (math.sqrt(v) + eps)
        p = p - lr * weight_decay * p
        yield p


def adam_weight_decay(
    p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.0, amsgrad=False
):
    """Keras' Adam (the paper's remark before its Sec. 2.1, "epsilon hat") after the decay."""
    m = v = v_max = 0.0
    for t, g in enumerate(gradients, 1):
        p = p - lr * weight_decay * p
        alpha = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        v_max = max(v_max, v)
        p = p - alpha * m / (math.sqrt(v_max if amsgrad else v) + eps)
        yield p


def rmsprop(
    p, gradients, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    square = mean = b = 0.0
    for g in gradients:
        g = g + weight_decay * p
        square = alpha * square + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        b = momentum * b + g / (math.sqrt(square - mean * mean if centered else square) + eps)
        p -= lr * b
        yield p


def adadelta(p, gradients, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    of_g = of_step = 0.0
    for g in gradients:
        g = g + weight_decay * p
        of_g = rho * of_g + (1 - rho) * g**2
        step = -math.sqrt(of_step + eps) / math.sqrt(of_g + eps) * g
        of_step = rho * of_step + (1 - rho) * step**2
        p += lr * step
        yield p


def adamax(p, gradients, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = u = 0.0
    for t, g in enumerate(gradients, 1):
        g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        u = max(betas[1] * u, abs(g) + eps)
        p -= lr / (1 - betas[0] ** t) * m / u
        yield p


def nadam(
    p,
    gradients,
    lr=2e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
):
    def mu(t):
        return betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        if decoupled_weight_decay:
            p -= lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat = mu(t + 1) * m / (1 - math.prod(mu(i) for i in range(1, t + 2)))
        m_hat += (1 - mu(t)) * g / (1 - math.prod(mu(i) for i in range(1, t + 1)))
        p -= lr * m_hat / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
        yield p


def radam(
    p,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
):
    m = v = 0.0
    rho_inf = 2 / (1 - betas[1]) - 1
    for t, g in enumerate(gradients, 1):
        if decoupled_weight_decay:
            p -= lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat = m / (1 - betas[0] ** t)
        rho = rho_inf - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            p -= lr * r * m_hat * math.sqrt(1 - betas[1] ** t) / (math.sqrt(v) + eps)
        else:
            p -= lr * m_hat
        yield p


def asgd(p, gradients, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0):
    """The way itself; its average is tested apart."""
    for t, g in enumerate(gradients):
        eta = lr / (1 + lambd * lr * t) ** alpha
        p = p - eta * (g + weight_decay * p + lambd * p)
        yield p


def rprop(p, gradients, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0)):
    delta, before = lr, 0.0
    for g in gradients:
        if g * before > 0:
            delta = min(delta * etas[1], step_sizes[1])
        elif g * before < 0:
            delta = max(delta * etas[0], step_sizes[0])
            g = 0.0
        delta = min(max(delta, step_sizes[0]), step_sizes[1])  # the first may be out of bounds
        if g != 0:
            p -= math.copysign(delta, g)
        before = g
        yield p


# What follows looks at whole tensors: numpy arrays; the last two dimensions are a matrix's.


def sparse_adam(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, maximize=False):
    """Adam as the end of its Sec. 2 has it ("epsilon hat"), where there is a gradient."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        g = -g if maximize else g
        there = g != 0
        m = np.where(there, betas[0] * m + (1 - betas[0]) * g, m)
        v = np.where(there, betas[1] * v + (1 - betas[1]) * g**2, v)
        alpha = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        p = np.where(there, p - alpha * m / (np.sqrt(v) + eps), p)
        yield p


def muon_torch(
    p,
    gradients,
    lr=1e-3,
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
):
    """The post's odd polynomial, here of the singular values themselves."""
    c1, c3, c5 = ns_coefficients
    rows, columns = p.shape
    scale = math.sqrt(max(1, rows / columns))  # the post's
    if adjust_lr_fn == "match_rms_adamw":
        scale = 0.2 * math.sqrt(max(rows, columns))  # Liu et al. 2025, (4)
    b = np.zeros_like(p)
    for g in gradients:
        b = momentum * b + (1 - momentum) * g
        u = momentum * b + (1 - momentum) * g if nesterov else b
        left, s, right = np.linalg.svd(u / max(np.linalg.norm(u), eps), full_matrices=False)
        for _ in range(ns_steps):
            s = c1 * s + c3 * s**3 + c5 * s**5
        p = p - lr * weight_decay * p - lr * scale * (left * s) @ right
        yield p


def lbfgs(x, gradient, lr=1.0, history_size=100):
    """Nocedal & Wright, Alg. 7.4 and 7.5, with steps of a fixed length; endless.

    As in torch the first one is no longer than lr, and pairs without curvature are left out.
    """
    pairs, g = [], gradient(x)
    step = lr * min(1, 1 / np.abs(g).sum())
    while True:
        x, x_before, g_before = x - step * _inverse_hessian(pairs, g), x, g
        yield x
        g, step = gradient(x), lr
        s, y = x - x_before, g - g_before
        if s @ y > 1e-10:
            pairs = [*pairs, (s, y)][-history_size:]


def _inverse_hessian(pairs, q):
    """Times q, in two loops."""
    alphas = []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (y @ s))
        q = q - alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q = s @ y / (y @ y) * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + (alpha - y @ q / (y @ s)) * s
    return q


def adafactor(p, gradients, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0):
    eps1 = np.finfo(np.float64).eps if eps[0] is None else eps[0]
    rows = columns = v = 0.0
    for t, g in enumerate(gradients, 1):
        beta2 = 1 - t**beta2_decay
        alpha = max(eps[1], rms(p)) * min(lr, 1 / math.sqrt(t))
        if g.ndim < 2:
            v = beta2 * v + (1 - beta2) * g**2
        else:
            m, n = g.shape[-2:]
            rows = beta2 * rows + (1 - beta2) * np.sum(g**2, axis=-1) / n
            columns = beta2 * columns + (1 - beta2) * np.sum(g**2, axis=-2) / m
            mean = np.maximum(np.sum(rows, axis=-1) / m, eps1)
            v = np.einsum("...i,...j,...->...ij", rows, columns, 1 / mean)
        u = g / np.maximum(np.sqrt(v), eps1)
        u = u / max(1, rms(u) / d)
        p = p - lr * weight_decay * p - alpha * u
        yield p


def adafactor_hf(
    p,
    gradients,
    lr=None,
    eps=(1e-30, 1e-3),
    clip_threshold=1.0,
    decay_rate=-0.8,
    beta1=None,
    weight_decay=0.0,
    scale_parameter=True,
    relative_step=True,
    warmup_init=False,
):
    rows = columns = v = average = 0.0
    for t, g in enumerate(gradients, 1):
        beta2 = 1 - t**decay_rate
        step = min(1e-6 * t if warmup_init else 1e-2, 1 / math.sqrt(t)) if relative_step else lr
        if scale_parameter:
            step *= max(eps[1], rms(p))
        squares = g**2 + eps[0]
        if g.ndim < 2:
            v = beta2 * v + (1 - beta2) * squares
        else:
            rows = beta2 * rows + (1 - beta2) * squares.mean(axis=-1)
            columns = beta2 * columns + (1 - beta2) * squares.mean(axis=-2)
            v = np.einsum("...i,...j,...->...ij", rows, columns, 1 / np.mean(rows, axis=-1))
        u = g / np.sqrt(v)
        u = step * u / max(1, rms(u) / clip_threshold)
        if beta1 is not None:
            u = average = beta1 * average + (1 - beta1) * u
        p = p - step * weight_decay * p - u
        yield p


def rms(x):
    return math.sqrt(np.sum(np.square(x)) / x.size)
