"""Gives lazy layers their shapes before the optimizer is created."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lit_optim.errors import UsageError, first_line
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a, variant_for


class _AllHaveShapes(BaseException):
    """Ends the dry pass at the last lazy layer; a BaseException, so that no code catches it."""


class LazyLayers(Callback):
    """Gives lazy layers their shapes before DDP or FSDP2, which refuse them, get the model."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        kinds = "strategies.DDPStrategy", "strategies.ModelParallelStrategy"
        if stage == "fit" and is_a(trainer.strategy, *kinds):
            initialize_lazy_layers(pl_module)


def initialize_lazy_layers(module: LightningModule) -> None:
    """Give all lazy layers (`nn.LazyLinear` and so on) of a module an input.

    Before that their weights have no shape, so that neither their role nor their weight decay is
    known. The input is `example_input_array` or else the first training batch, with which
    `training_step` runs until the last lazy layer: without gradient, without logging, and with the
    buffers restored afterwards.

    Args:
        module: attached to its trainer.

    Raises:
        UsageError: the input does not reach the layers; the message says what to do.
    """
    lazy = [layer for layer in module.modules() if _has_no_shape(layer)]
    if not lazy:
        return
    names = [name for name, layer in module.named_modules() if layer in lazy]
    buffers = {name: b.clone() for name, b in module.named_buffers() if not is_lazy(b)}
    advice = "set example_input_array in the module, or run a batch through it before fit"
    try:
        with _stop_at_last(module, lazy), _no_logging(module), torch.no_grad():
            _run_dry_pass(module)
    except _AllHaveShapes:
        pass
    except Exception as error:
        raise UsageError(
            f"the shape of the lazy layer {names[0]} could not be found by a dry training_step "
            f"({type(error).__name__}: {first_line(error)}): {advice}"
        ) from error
    for name, b in module.named_buffers():
        if name in buffers:
            b.copy_(buffers[name])
    for layer in lazy:
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.reset_running_stats()
    left = [name for name, layer in module.named_modules() if _has_no_shape(layer)]
    if left:
        raise UsageError(f"no input reaches the lazy layer {left[0]}: {advice}")


def _has_no_shape(layer: nn.Module) -> bool:
    return any(is_lazy(p) for p in layer.parameters(recurse=False))


def _run_dry_pass(module: LightningModule) -> None:
    trainer = module.trainer
    precision = trainer.precision_plugin
    precision.convert_module(module)
    example = module.example_input_array
    batch = _first_batch(trainer) if example is None else example
    with precision.train_step_context():
        if example is None:
            batch = precision.convert_input(module._apply_batch_transfer_handler(batch))
            module.training_step(batch, 0)
            return
        move = variant_for(trainer, "core.hooks.move_data_to_device")
        batch = precision.convert_input(move(batch, module.device))
        if isinstance(batch, dict):
            module(**batch)
        else:
            module(*batch) if isinstance(batch, tuple) else module(batch)


def _first_batch(trainer: Trainer) -> Any:
    trainer.fit_loop.setup_data()
    loader = trainer.fit_loop._combined_loader
    if loader is None:
        raise UsageError("there are no training data")
    twin = type(loader)(loader.iterables, loader._mode)  # the trainer iterates over its own
    batch, *_ = next(iter(twin))
    twin.reset()
    return batch


@contextmanager
def _stop_at_last(module: LightningModule, lazy: list[nn.Module]) -> Iterator[None]:
    """Raise `_AllHaveShapes` when the last of these layers gets its shape."""

    def look(*_: Any) -> None:
        if not any(map(_has_no_shape, lazy)):
            raise _AllHaveShapes

    handles = [layer.register_forward_pre_hook(look) for layer in lazy]
    handles += [layer.register_forward_hook(look) for layer in lazy]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _no_logging(module: LightningModule) -> Iterator[None]:
    """Replace the module's `log` and `log_dict` by functions that do nothing."""
    kept = {name: module.__dict__.get(name) for name in ("log", "log_dict")}
    for name in kept:
        module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name, value in kept.items():
            del module.__dict__[name]
            if value is not None:
                module.__dict__[name] = value
