"""How an optimizer is doing: norms of gradients, updates and parameters, in TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.hyperparameters import check
from lit_optim.kernels.precision import accumulation_dtype, as_real
from lit_optim.training.tracked import Tracked, find_tracked, track_optimizers
from lit_optim.updates import Updates, count_updates


class Health(Callback):
    """Logs, once in so many updates and for each group, what the update was like.

    `grad_norm/<group>` of the gradient that was stepped by, after clipping; `param_norm/<group>`
    before the update; `update_norm/<group>` of what it changed; `update_ratio/<group>`, the latter
    over the former, about 1e-3 where training goes well; and `clip_fraction`, the share of the
    updates looked at so far whose gradient was clipped, where gradients are clipped by norm.

    With several optimizers the tags have their names in between, `grad_norm/<optimizer>/<group>`.
    Between two looks it costs nothing. A look keeps a copy of the parameters for one update.
    Sharded parameters are not looked at, nor are updates within the backward pass.

    Args:
        every: updates between two looks; the first update is looked at too.
    """

    def __init__(self, every: Annotated[int, "> 0"] = 50) -> None:
        check(type(self).__init__, {"every": every})
        self.every = every
        self._trainer: Trainer | None = None  # while it trains
        self._tracked: list[Tracked] = []
        self._looks: dict[int, _Look] = {}  # by place of the optimizer, during an update
        self._clips: bool | None = None  # whether the gradient of the next update is clipped
        self._clipped: list[bool] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._trainer, self._looks = trainer, {}
        self._tracked = track_optimizers(trainer, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._trainer, self._tracked, self._looks = None, [], {}

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        limit = trainer.gradient_clip_val
        tracked = find_tracked(self._tracked, count_updates(optimizer))
        self._clips = None
        if tracked is None or tracked.made % self.every or not limit:
            return
        if trainer.gradient_clip_algorithm in (None, "norm"):  # Lightning clips after this
            every = [p.grad for _, group in tracked.groups() for p in group["params"]]
            self._clips = bool(_norm([grad for grad in every if grad is not None]) > limit)

    def before_update(self, updates: Updates) -> None:
        """Look at the gradients and the parameters as they are now."""
        tracked = find_tracked(self._tracked, updates)
        if tracked is None or tracked.made % self.every:
            return
        if self._clips is not None:
            self._clipped.append(self._clips)
        look = _Look(tracked.made)
        for tag, group in tracked.groups():
            params = [p.detach() for p in group["params"]]
            look.before.append([p.clone() for p in params])
            look.values[f"param_norm/{tag}"] = float(_norm(params))
            grads = [p.grad for p in group["params"] if p.grad is not None]
            look.values[f"grad_norm/{tag}"] = float(_norm(grads))
        self._looks[self._tracked.index(tracked)] = look

    def after_update(self, updates: Updates) -> None:
        """Look at what has changed, and log it."""
        tracked, trainer = find_tracked(self._tracked, updates), self._trainer
        if tracked is None or trainer is None:
            return
        look = self._looks.pop(self._tracked.index(tracked), None)
        if look is None:
            return
        for (tag, group), before in zip(tracked.groups(), look.before, strict=True):
            params = [p.detach() for p in group["params"]]
            moved = float(_norm(list(torch._foreach_sub(params, before))))
            size = look.values[f"param_norm/{tag}"]
            look.values[f"update_norm/{tag}"] = moved
            look.values[f"update_ratio/{tag}"] = moved / size if size else float("nan")
        if self._clipped:
            look.values["clip_fraction"] = sum(self._clipped) / len(self._clipped)
        for logger in trainer.loggers:
            logger.log_metrics(look.values, step=look.step)


@dataclass
class _Look:
    """What was seen before an update."""

    step: int
    before: list[list[Tensor]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)


def _norm(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(())
    # squares of float32 numbers overflow long before the numbers do
    numbers = map(as_real, tensors)
    norms = [torch.linalg.vector_norm(x, dtype=accumulation_dtype(x.device)) for x in numbers]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
