"""The program of a rule."""

from __future__ import annotations

import torch

from lit_optim.kernels.ir import trace_rule
from lit_optim.kernels.precision import FORMATS, LOW_BITS, SCALE
from tests.optimizers.running import class_of


def traced(name, dtype=torch.float32, **settings):
    """The program of an optimizer's update, and the formats of its tensors."""
    cls, found = class_of(name), []

    class Traced(cls):
        def update(self, group, batch, h, t):
            names, [state] = tuple(self.states_for(group)), batch.states
            keys = [*names, *[n + SCALE for n in names if n + SCALE in state]]
            keys += [LOW_BITS] * (LOW_BITS in state)
            row = [*batch.params, *batch.grads, *(state[key] for key in keys)]
            program = trace_rule(self._traced_update, names, vars(h))
            found.append((program, [FORMATS[tensor.dtype] for tensor in row]))

    p = torch.nn.Parameter(torch.ones(4, 4, dtype=dtype))
    p.grad = torch.ones_like(p)
    Traced([p], **settings).step()
    [(program, formats)] = found
    return program, formats
