"""What an optimizer or a wrapper requires of a training loop beyond zero_grad, backward and step.

A class lists its requirements as `requirements`, and the range in which to search for its lr as
`lr_range`; both are literals, so that they can be read without importing torch.
"""

from __future__ import annotations

import math
from typing import Literal

Requirement = Literal[
    "closure", "train_eval", "lr_of_1", "steady_lr", "one_lr", "roles", "dense", "sparse", "whole"
]

#: What each requirement means, in words that follow the optimizer's name.
REQUIREMENTS: dict[Requirement, str] = {
    "closure": "evaluates the loss again within a step",
    "train_eval": (
        "trains one set of weights and evaluates their average: train() and eval() swap them"
    ),
    "lr_of_1": "finds its step size itself; lr scales it and is about 1",
    "steady_lr": "averages instead of decaying the lr: use scheduler=constant_warmup or none",
    "one_lr": "takes the same lr for all groups",
    "roles": "is for hidden matrices; AdamW updates the parameters with another role",
    "dense": "does not support sparse gradients",
    "sparse": "is for sparse gradients, such as those of nn.Embedding(sparse=True)",
    "whole": "looks at whole tensors, which FSDP1 flattens, so it does not train with FSDP1",
}

#: By what factor an lr may miss the range that is worth searching before it looks like a slip.
FAR_LR_FACTOR = 10.0


def is_far_lr(lr: float, lr_range: tuple[float, float] | None) -> bool:
    """Whether an lr is far from the range that is worth searching."""
    low, high = lr_range or (0.0, math.inf)
    return not low / FAR_LR_FACTOR < lr < high * FAR_LR_FACTOR
