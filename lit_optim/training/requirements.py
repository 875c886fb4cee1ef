"""Checks before the first step whether a run meets the requirements of its optimizer."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.group_fields import initial_lr
from lit_optim.lightning_classes import LightningModule, Trainer, is_a
from lit_optim.requirements import FAR_LR_FACTOR
from lit_optim.schedules.curve import Curve
from lit_optim.wrappers import unwrap

LOG = logging.getLogger("lit_optim")


def requirements_of(optimizer: Any) -> tuple[str, ...]:
    """Return the requirements of an optimizer, its class or a partial; none if undeclared."""
    return tuple(getattr(getattr(optimizer, "func", optimizer), "requirements", ()))


def check_requirements(module: LightningModule, optimizer: Optimizer, curve: Curve | None) -> None:
    """Refuse a run that cannot work, and warn about one that is probably a mistake.

    Args:
        module: attached to its trainer.
        optimizer: of the run.
        curve: the schedule over this run, if there is one.

    Raises:
        UsageError: the optimizer needs a closure with gradient accumulation or in fp16, whole
            tensors that FSDP1 flattens, or dense gradients from a sparse layer.
    """
    inner, trainer = unwrap(optimizer), module.trainer
    needs, name = requirements_of(inner), type(inner).__name__
    reject_run(needs, name, trainer)
    reject_run(requirements_of(optimizer), type(optimizer).__name__, trainer)
    if "dense" in needs and (layer := _sparse_layer(module)):
        raise UsageError(
            f"{name} does not support sparse gradients, and the layer {layer} has them: set "
            "sparse=False there, or use optimizer=sparse_adam"
        )
    _allow_clipping(inner, trainer)
    if not trainer.is_global_zero:
        return
    for warning in find_warnings(needs, name, optimizer.param_groups, curve):
        LOG.warning(warning)


def reject_run(needs: tuple[str, ...], name: str, trainer: Trainer) -> None:
    """Refuse a run that does not meet the requirements of an optimizer.

    Args:
        needs: the requirements.
        name: of the optimizer.
        trainer: of the run.

    Raises:
        UsageError: naming the setting.
    """
    if "closure" in needs:
        if trainer.accumulate_grad_batches != 1:
            raise UsageError(
                f"{name} evaluates the loss again within a step, and would see only the last "
                f"of {trainer.accumulate_grad_batches} accumulated batches: set "
                "accumulate_grad_batches=1 and a larger batch"
            )
        precision = trainer.precision_plugin
        if is_a(precision, "plugins.MixedPrecision") and precision.scaler is not None:
            raise UsageError(
                f"{name} evaluates the loss again within a step, which the loss scaling of "
                f"precision={trainer.precision} does not allow; use bf16-mixed or 32"
            )
    if "whole" in needs and is_a(trainer.strategy, "strategies.FSDPStrategy"):
        raise UsageError(
            f"{name} looks at whole tensors, which FSDP1 (strategy=fsdp) flattens; FSDP2 "
            "(trainer=fsdp) keeps them"
        )


def _sparse_layer(module: LightningModule) -> str | None:
    """Return the first trainable layer with sparse gradients."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    tables = ((n, layer) for n, layer in module.named_modules() if isinstance(layer, kinds))
    sparse = (name for name, table in tables if table.sparse and table.weight.requires_grad)
    return next(sparse, None)


def _allow_clipping(optimizer: Optimizer, trainer: Trainer) -> None:
    """Switch off torch's fused steps, which unscale gradients themselves, if they are clipped."""
    mixed = is_a(trainer.precision_plugin, "plugins.MixedPrecision")
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    if not (mixed and fused and trainer.gradient_clip_val):
        return
    for group in fused:
        group["fused"], group["foreach"] = False, True
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        LOG.info(
            f"{type(optimizer).__name__}: fused=true unscales the gradients itself, so they cannot "
            "be clipped; use foreach=true instead"
        )


def find_warnings(
    needs: tuple[str, ...], name: str, groups: list[dict[str, Any]], curve: Curve | None
) -> list[str]:
    """Return a warning for each setting that is probably a mistake.

    Args:
        needs: the requirements of the optimizer.
        name: of its class.
        groups: its param groups.
        curve: the schedule over this run, if there is one.
    """
    lrs = sorted({float(initial_lr(group)) for group in groups})
    values, warnings = _sample(curve), []
    peak = max(values, default=1.0)
    if peak == 0:
        warnings.append("the lr is 0 in every update: nothing will be learned")
    elif "steady_lr" in needs and values and (end := values[-1] / peak) < 1:
        warnings.append(
            f"{name} averages the weights instead of decaying the lr, but this schedule falls to "
            f"{end:.2g} of its peak, so the lr is effectively decayed twice; use "
            "constant_warmup, or no schedule"
        )
    if "one_lr" in needs and len(lrs) > 1:
        text = ", ".join(f"{lr:g}" for lr in lrs)
        warnings.append(
            f"{name} finds one step size for all parameters, but groups differ in lr ({text}): "
            "their ratio is kept, and the step size found fits the largest"
        )
    if "lr_of_1" in needs and not all(1 / FAR_LR_FACTOR <= lr <= FAR_LR_FACTOR for lr in lrs):
        warnings.append(
            f"{name} finds its step size itself, and lr only scales it: lr={lrs[-1]:g} trains "
            f"{lrs[-1]:g} times as fast as intended; set it to 1"
        )
    return warnings


def _sample(curve: Curve | None) -> list[float]:
    """Return a hundred values of a curve with the last one; none if they depend on the run."""
    if curve is None or curve.metric is not None or curve.state_dict():
        return []
    return [curve(step) for step in sorted({round(k * (curve.total - 1) / 99) for k in range(100)})]
