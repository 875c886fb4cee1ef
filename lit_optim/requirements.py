"""What an optimizer or a wrapper requires of a training loop beyond zero_grad, backward and step.

A class lists its requirements as `requirements`, and the range in which to search for its lr as
`lr_range`; both are literals, so that they can be read without importing torch.
"""

from __future__ import annotations

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
    "steady_lr": "averages instead of decaying the lr: a decaying schedule would undo that",
    "one_lr": "takes the same lr for all groups",
    "roles": "is for hidden matrices; AdamW updates the parameters with another role",
    "dense": "takes no sparse gradients",
    "sparse": "is for sparse gradients, such as those of nn.Embedding(sparse=True)",
    "whole": "computes norms or means of whole tensors, so parameters must not be sharded",
}
