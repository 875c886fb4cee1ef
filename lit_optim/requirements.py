"""What an optimizer asks of those who use it, beside zero_grad, backward and step.

A class says so in its body, as `needs`, and in what range its lr is worth searching, as
`lr_range`: both literals, so that they can be read without importing torch.
"""

from __future__ import annotations

from typing import Literal

Need = Literal[
    "closure", "train_eval", "lr_of_1", "steady_lr", "one_lr", "roles", "dense", "sparse", "whole"
]

#: What each of them means, in words that follow the optimizer's name.
NEEDS: dict[Need, str] = {
    "closure": "evaluates the loss again within a step",
    "train_eval": "trains other weights than it is judged by: train() and eval() swap them",
    "lr_of_1": "finds its step size itself; lr scales it and is about 1",
    "steady_lr": "averages instead of decaying the lr: a schedule that falls undoes that",
    "one_lr": "takes the same lr for all groups",
    "roles": "is for hidden matrices; other parameters go to AdamW, by their role in the model",
    "dense": "takes no sparse gradients",
    "sparse": "is for sparse gradients, as of nn.Embedding(sparse=True)",
    "whole": "looks at whole tensors, so they must not be sharded",
}
