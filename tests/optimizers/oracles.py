"""The papers again, one plain float64 function per algorithm, coordinate by coordinate.

Written from the update rules, not from our code: `oracle(p, gradients, **hyper)` returns the
parameter after each update, for one scalar parameter.
"""

from __future__ import annotations

import math


def adamw(p, gradients, lr=1e-3, weight_decay=1e-2, **hyper):
    return _adam(p, gradients, lr, decoupled=weight_decay, coupled=0.0, **hyper)


def adam(p, gradients, lr=1e-3, weight_decay=0.0, **hyper):
    return _adam(p, gradients, lr, decoupled=0.0, coupled=weight_decay, **hyper)


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
