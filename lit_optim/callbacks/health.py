"""Logs the norms of gradients, updates and parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.hyperparameters import check
from lit_optim.kernels.precision import accumulation_dtype, as_real
from lit_optim.lightning_classes import Callback, LightningModule, Trainer
from lit_optim.sharding import Sharding, Sums, local_tensor
from lit_optim.training.tracked import TrackedOptimizer, find_tracked_optimizer, track_optimizers
from lit_optim.updates import Updates, count_updates

#: For each tensor, how it is spread over processes, and the norm of what is here.
Parts: TypeAlias = list[tuple[Sharding | None, Tensor]]


class Health(Callback):
    """Logs norms of the first update and of every `every`-th one, for each param group.

    `grad_norm/<group>` is the norm of the gradient after clipping, `param_norm/<group>` that of the
    parameters before the update, `update_norm/<group>` that of their change, and
    `update_ratio/<group>` the change relative to the parameters, about 1e-3 in a healthy training.
    If gradients are clipped by norm, `clip_fraction` is the share of these updates so far whose
    gradient was clipped.

    With several optimizers the tags contain their names, `grad_norm/<optimizer>/<group>`. Other
    updates cost nothing. A logged update needs a copy of the parameters. Norms are of whole
    tensors, also of sharded ones. Updates in the backward pass are logged if
    `release_gradients` makes them.

    Args:
        every: log every this many updates.
    """

    def __init__(self, every: Annotated[int, "> 0"] = 50) -> None:
        check(type(self).__init__, {"every": every})
        self.every = every
        self._trainer: Trainer | None = None  # during training
        self._tracked: list[TrackedOptimizer] = []
        #: By the index of the optimizer, during an update.
        self._measurements: dict[int, _Measurement] = {}
        self._will_clip: bool | None = None  # whether the next update's gradient is clipped
        self._clip_history: list[bool] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer, self._measurements = trainer, {}
        self._tracked = track_optimizers(trainer, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer, self._tracked, self._measurements = None, [], {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        limit = trainer.gradient_clip_val
        tracked = find_tracked_optimizer(self._tracked, count_updates(optimizer))
        self._will_clip = None
        if tracked is None or tracked.update_count % self.every or not limit:
            return
        if trainer.gradient_clip_algorithm in (None, "norm"):  # Lightning clips after this
            grads = [p.grad for _, group in tracked.groups() for p in group["params"]]
            [norm] = _totals([_parts([grad for grad in grads if grad is not None])])
            self._will_clip = norm > limit

    def before_update(self, updates: Updates) -> None:
        """Measure the gradients and the parameters, and copy the parameters."""
        tracked = find_tracked_optimizer(self._tracked, updates)
        if tracked is None or tracked.update_count % self.every:
            return
        if self._will_clip is not None:
            self._clip_history.append(self._will_clip)
        measurement = _Measurement(tracked.update_count)
        measured: list[Parts] = []
        for tag, group in tracked.groups():
            params = [p.detach() for p in group["params"]]
            measurement.before.append([p.clone() for p in params])
            measured.append(_parts(params))
            measurement.grads[tag] = []
        tags = [tag for tag, _ in tracked.groups()]
        for tag, norm in zip(tags, _totals(measured), strict=True):
            measurement.values[f"param_norm/{tag}"] = norm
        self._measurements[self._tracked.index(tracked)] = measurement
        if not updates.is_releasing:
            self.before_release(updates, [p for _, g in tracked.groups() for p in g["params"]])

    def before_release(self, updates: Updates, params: list[Tensor]) -> None:
        """Measure gradients, which may be freed before others are there."""
        tracked = find_tracked_optimizer(self._tracked, updates)
        if tracked is None or (index := self._tracked.index(tracked)) not in self._measurements:
            return
        chosen = {id(p) for p in params}
        for tag, group in tracked.groups():
            grads = [p.grad for p in group["params"] if p.grad is not None and id(p) in chosen]
            self._measurements[index].grads[tag] += _parts(grads)

    def after_update(self, updates: Updates) -> None:
        """Measure the change of the parameters, and log everything."""
        tracked, trainer = find_tracked_optimizer(self._tracked, updates), self._trainer
        if tracked is None or trainer is None:
            return
        measurement = self._measurements.pop(self._tracked.index(tracked), None)
        if measurement is None:
            return
        changes: list[Parts] = []
        for (_, group), before in zip(tracked.groups(), measurement.before, strict=True):
            pairs = zip(group["params"], before, strict=True)
            changes.append(_parts([p.detach() - q for p, q in pairs]))
        tags = list(measurement.grads)
        norms = _totals([*measurement.grads.values(), *changes])
        for tag, grad, change in zip(tags, norms, norms[len(tags) :], strict=False):
            size = measurement.values[f"param_norm/{tag}"]
            measurement.values[f"grad_norm/{tag}"] = grad
            measurement.values[f"update_norm/{tag}"] = change
            measurement.values[f"update_ratio/{tag}"] = change / size if size else float("nan")
        if self._clip_history:
            measurement.values["clip_fraction"] = sum(self._clip_history) / len(self._clip_history)
        for logger in trainer.loggers:
            logger.log_metrics(measurement.values, step=measurement.step)


@dataclass
class _Measurement:
    """The parameters before an update, and the norms; those of gradients one by one."""

    step: int
    before: list[list[Tensor]] = field(default_factory=list)
    grads: dict[str, Parts] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


def _parts(tensors: list[Tensor]) -> Parts:
    """The norm of each tensor, or of its shard here, and how it is spread."""
    complete = [_without_sums(x) for x in tensors]
    return [(Sharding.of(x), _norm([local_tensor(x)])) for x in complete]


def _totals(lists: list[Parts]) -> list[float]:
    """The norm of all tensors of each list; what is sharded sends one message in all."""
    requests: list[Sums] = []
    wholes: list[float] = []
    places: list[range] = []  # of the requests of each list
    for parts in lists:
        norms: dict[Sharding | None, list[Tensor]] = {}
        for sharding, norm in parts:
            norms.setdefault(sharding, []).append(norm)
        wholes.append(float(_norm(norms.pop(None, []))))
        places.append(range(len(requests), len(requests) + len(norms)))
        requests += [Sums(_norm(own).square().view(1), key) for key, own in norms.items() if key]
    totals = Sums.answer(requests)
    return [
        math.hypot(whole, *(math.sqrt(float(totals[k])) for k in own))
        for whole, own in zip(wholes, places, strict=True)
    ]


def _norm(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(())
    # squares of float32 numbers overflow long before the numbers do
    numbers = map(as_real, tensors)
    norms = [torch.linalg.vector_norm(x, dtype=accumulation_dtype(x.device)) for x in numbers]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _without_sums(x: Tensor) -> Tensor:
    """Complete a gradient of which each process has a summand."""
    placements = getattr(x, "placements", ())
    if not any(one.is_partial() for one in placements):
        return x
    from torch.distributed.tensor import Replicate

    complete = [Replicate() if one.is_partial() else one for one in placements]
    whole: Tensor = x.redistribute(placements=complete)  # type: ignore[attr-defined]
    return whole
