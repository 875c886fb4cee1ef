"""How an optimizer is doing: norms of gradients, updates and parameters, in TensorBoard."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.hyperparameters import check
from lit_optim.kernels.precision import real_numbers, widest
from lit_optim.lightning.callbacks import groups


class Health(Callback):
    """Logs, once in so many updates and for each group, what the update was like.

    `grad_norm/<group>` of the gradient that was stepped by, after clipping; `param_norm/<group>`
    before the update; `update_norm/<group>` of what it changed; `update_ratio/<group>`, the latter
    over the former, about 1e-3 where training goes well; and `clip_fraction`, the share of the
    updates looked at so far whose gradient was clipped, where gradients are clipped by norm.

    Between two looks it costs nothing. A look keeps a copy of the parameters for one update.
    Sharded parameters are not looked at.

    Args:
        every: updates between two looks; the first update is looked at too.
    """

    def __init__(self, every: Annotated[int, "> 0"] = 50) -> None:
        check(type(self).__init__, {"every": every})
        self.every = every
        self._before: list[list[Tensor]] | None = None
        self._values: dict[str, float] = {}
        self._clipped: list[bool] = []
        self._step = -1

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        step = trainer.global_step
        if step % self.every or step == self._step:
            return
        self._step = step
        limit = trainer.gradient_clip_val
        if limit and trainer.gradient_clip_algorithm in (None, "norm"):
            every = [p for group in groups(optimizer) for p in group["params"]]
            # Lightning clips after this
            self._clipped.append(bool(_norm([p.grad for p in every if p.grad is not None]) > limit))
        self._values, self._before = {}, []
        for index, group in enumerate(groups(optimizer)):
            params = [p.detach() for p in group["params"]]
            self._before.append([p.clone() for p in params])
            self._values[f"param_norm/{_name(group, index)}"] = float(_norm(params))

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before is not None and trainer.global_step > self._step:
            [optimizer] = trainer.optimizers
            self._tell(trainer, optimizer, self._before)
            self._before = None

    def _tell(self, trainer: Trainer, optimizer: Optimizer, before_all: list[list[Tensor]]) -> None:
        for index, (group, before) in enumerate(zip(groups(optimizer), before_all, strict=True)):
            name = _name(group, index)
            params = [p.detach() for p in group["params"]]
            grads = [p.grad for p in group["params"] if p.grad is not None]
            moved = float(_norm(list(torch._foreach_sub(params, before))))
            size = self._values[f"param_norm/{name}"]
            self._values[f"grad_norm/{name}"] = float(_norm(grads))
            self._values[f"update_norm/{name}"] = moved
            self._values[f"update_ratio/{name}"] = moved / size if size else float("nan")
        if self._clipped:
            self._values["clip_fraction"] = sum(self._clipped) / len(self._clipped)
        for logger in trainer.loggers:
            logger.log_metrics(self._values, step=self._step)


def _norm(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(())
    # squares of float32 numbers overflow long before the numbers do
    numbers = map(real_numbers, tensors)
    norms = [torch.linalg.vector_norm(x, dtype=widest(x.device)) for x in numbers]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _name(group: dict[str, Any], index: int) -> str:
    return str(group.get("name", f"group{index}"))
