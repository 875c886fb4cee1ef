"""More papers again, as in `oracles`: what came after torch's, coordinate by coordinate."""

from __future__ import annotations

import math

import numpy as np


def nadamw(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat = (betas[0] * m + (1 - betas[0]) * g) / (1 - betas[0] ** t)
        v_hat = v / (1 - betas[1] ** t)
        p = p - lr * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * p)
        yield p


def laprop(p, gradients, lr=4e-4, betas=(0.9, 0.999), eps=1e-15, weight_decay=0.0):
    n = m = 0.0
    for t, g in enumerate(gradients, 1):
        n = betas[1] * n + (1 - betas[1]) * g * g
        m = betas[0] * m + (1 - betas[0]) * g / (math.sqrt(n / (1 - betas[1] ** t)) + eps)
        p = p - lr * m / (1 - betas[0] ** t) - lr * weight_decay * p
        yield p


def signum(p, gradients, lr=1e-4, momentum=0.9, nesterov=False, weight_decay=0.0):
    m = 0.0
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        d = momentum * m + (1 - momentum) * g if nesterov else m
        p = p - lr * (math.copysign(d != 0, d) + weight_decay * p)
        yield p


def adopt(p, gradients, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, clip_exp=0.25, weight_decay=0.0):
    m, v, *rest = 0.0, gradients[0] ** 2, *gradients[1:]
    yield p
    for t, g in enumerate(rest, 1):
        n = g / max(math.sqrt(v), eps)
        if clip_exp is not None:
            n = min(max(n, -(t**clip_exp)), t**clip_exp)
        m = betas[0] * m + (1 - betas[0]) * n
        p = p - lr * (m + weight_decay * p)
        v = betas[1] * v + (1 - betas[1]) * g**2
        yield p


def adan(
    p,
    gradients,
    lr=1e-3,
    betas=(0.98, 0.92, 0.99),
    eps=1e-8,
    weight_decay=0.0,
    no_prox=False,
):
    b1, b2, b3 = (1 - beta for beta in betas)  # as the paper writes them
    m = v = n = 0.0
    before = gradients[0]
    for k, g in enumerate(gradients, 1):
        m = (1 - b1) * m + b1 * g
        v = (1 - b2) * v + b2 * (g - before)
        n = (1 - b3) * n + b3 * (g + (1 - b2) * (g - before)) ** 2
        debiased = [x / (1 - (1 - b) ** k) for x, b in ((m, b1), (v, b2), (n, b3))]
        step = lr / (math.sqrt(debiased[2]) + eps) * (debiased[0] + (1 - b2) * debiased[1])
        p = p * (1 - lr * weight_decay) - step if no_prox else (p - step) / (1 + lr * weight_decay)
        before = g
        yield p


def schedule_free_adamw(y, gradients, **hyper):
    return (y for y, _ in both_of_schedule_free_adamw(y, gradients, **hyper))


def both_of_schedule_free_adamw(
    y, gradients, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, **weighting
):
    v, t = 0.0, 0

    def direction(g, y):
        nonlocal v, t
        v, t = betas[1] * v + (1 - betas[1]) * g * g, t + 1
        return g / (math.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * y

    return schedule_free(y, gradients, direction, lr, betas[0], **weighting)


def schedule_free_sgd(y, gradients, lr=1.0, momentum=0.9, weight_decay=0.0, **weighting):
    def direction(g, y):
        return g + weight_decay * y

    return (y for y, _ in schedule_free(y, gradients, direction, lr, momentum, **weighting))


def schedule_free(y, gradients, direction, lr, beta, warmup_steps=0, r=0.0, weight_lr_power=2.0):
    """All three sequences of the paper; yields y and x."""
    z = x = y
    total = largest = 0.0
    for t, g in enumerate(gradients, 1):
        size = lr * min(1, t / warmup_steps) if warmup_steps else lr
        z = z - size * direction(g, y)
        largest = max(largest, size)
        weight = t**r * largest**weight_lr_power
        total += weight
        x = (1 - weight / total) * x + weight / total * z
        y = (1 - beta) * z + beta * x
        yield y, x


# What follows looks at whole tensors: numpy arrays.


def norm(x):
    return math.sqrt(np.sum(np.square(x)))


def lamb(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        r = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        u = r + weight_decay * p
        p = p - lr * norm(p) / norm(u) * u
        yield p


def lars(w, gradients, lr=1.0, momentum=0.9, weight_decay=5e-4, trust_coefficient=1e-3):
    v = 0.0
    for g in gradients:
        local_lr = 1.0
        if trust_coefficient is not None:
            local_lr = trust_coefficient * norm(w) / (norm(g) + weight_decay * norm(w))
        v = momentum * v + lr * local_lr * (g + weight_decay * w)
        w = w - v
        yield w


def stable_adamw(p, gradients, lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=1e-2):
    """With the debiased betas of the paper's Alg. 2."""
    v = u = 0.0
    for t, g in enumerate(gradients, 1):
        b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in betas)
        v = b1 * v + (1 - b1) * g
        u = b2 * u + (1 - b2) * g**2
        rms = math.sqrt(np.mean(g**2 / np.maximum(u, eps**2)))
        size = lr / max(1, rms)
        p = p - size * weight_decay * p - size * v / (np.sqrt(u) + eps)
        yield p


def mars(
    p,
    gradients,
    lr=3e-3,
    betas=(0.95, 0.99),
    eps=1e-8,
    weight_decay=0.0,
    gamma=0.025,
    optimize_1d=False,
    lr_1d=3e-3,
    betas_1d=(0.9, 0.95),
    weight_decay_1d=0.1,
):
    corrects = optimize_1d or np.ndim(p) >= 2
    if not corrects:
        lr, betas, weight_decay = lr_1d, betas_1d, weight_decay_1d
    m = v = before = 0.0
    for t, g in enumerate(gradients, 1):
        c = g
        if corrects:
            c = g + gamma * betas[0] / (1 - betas[0]) * (g - before)
            c = c / norm(c) if norm(c) > 1 else c
        m = betas[0] * m + (1 - betas[0]) * c
        v = betas[1] * v + (1 - betas[1]) * c**2
        u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        p = p - lr * (weight_decay * p + u)
        before = g
        yield p


def prodigy(
    p,
    gradients,
    lr=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=True,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=None,
):
    b1, b2 = betas
    b3 = math.sqrt(b2) if beta3 is None else beta3
    p0, d, d_max = p, d0, d0
    m = v = s = numerator = 0.0
    for k, g in enumerate(gradients, 1):
        if not decoupled_weight_decay:
            g = g + weight_decay * p
        debias = math.sqrt(1 - b2**k) / (1 - b1**k) if use_bias_correction else 1.0
        size = d * lr * debias
        numerator = b3 * numerator + d / d0 * size * float(np.sum(g * (p0 - p)))
        s = b3 * s + d / d0 * (d if safeguard_warmup else size) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        estimate = d_coef * numerator / float(np.sum(np.abs(s)))
        if d == d0:
            d = max(d, estimate)
        d_max = max(d_max, estimate)
        d = d_max if growth_rate is None else min(d_max, d * growth_rate)
        if decoupled_weight_decay:
            p = p - size * weight_decay * p
        p = p - size * m / (np.sqrt(v) + d * eps)
        yield p
