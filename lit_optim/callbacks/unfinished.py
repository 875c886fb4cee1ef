"""What each process of a run has of its own, which a checkpoint needs to continue bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_optim.callbacks.signals import have_agreed
from lit_optim.errors import UsageError
from lit_optim.lightning_classes import LightningModule, Trainer
from lit_optim.sharding import gather_wholes, is_sharded, shard_like

Gradients = Mapping[str, Tensor]


def are_gradients(by_name: Any) -> bool:
    """Whether it has a tensor for each name."""
    return isinstance(by_name, Mapping) and all(isinstance(g, Tensor) for g in by_name.values())


def has_several(trainer: Trainer) -> bool:
    """Whether the run has several processes that form a group."""
    return trainer.world_size > 1 and dist.is_available() and dist.is_initialized()


def is_alone(trainer: Trainer) -> bool:
    """Whether this process cannot ask the others, which may wait elsewhere or be gone."""
    return trainer.interrupted and not have_agreed(trainer)


def count_unfinished(trainer: Trainer, batches: int) -> int:
    """Count the batches of the update that is not finished.

    Args:
        trainer: while it fits.
        batches: of the epoch that are done.
    """
    # the last batches of an epoch may be fewer than those of an update
    has_stepped = trainer.validating and not trainer.fit_loop.epoch_loop._should_accumulate()
    return 0 if has_stepped else batches % trainer.accumulate_grad_batches


def gather_from_ranks(value: Any) -> list[Any]:
    """Gather what each process has, by rank, on rank 0; elsewhere the list is empty.

    All processes call it together.
    """
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None)
    return values


def unfinished_gradients(
    module: LightningModule, several: bool
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return the gradients so far, by parameter: those of all processes, and those of each.

    A process of several has gradients of its own, except for parameters that are sharded, whose
    gradients are summed after each batch. All processes call it together.

    Args:
        module: that is trained.
        several: whether there are several processes.
    """
    shared: dict[str, Tensor] = {}
    by_rank: list[dict[str, Tensor]] = []
    for name, p in module.named_parameters():
        gradient = None if p.grad is None else p.grad.detach()
        if is_sharded(p) and several:
            # one that has none has none on the others either
            if gradient is not None:
                shared[name] = gather_wholes(gradient)
        elif several:
            found = gather_from_ranks(None if gradient is None else gradient.cpu())
            by_rank = by_rank or [{} for _ in found]
            for mine, of_rank in zip(by_rank, found, strict=True):
                if of_rank is not None:
                    mine[name] = of_rank
        elif gradient is not None:
            shared[name] = gradient.clone()
    return shared, by_rank


def choose_gradients(
    shared: Gradients, by_rank: Sequence[Gradients], trainer: Trainer
) -> Gradients:
    """Choose the gradients that this process continues with.

    On another number of processes than before each one gets the average, with which the sum over
    them is the same.

    Args:
        shared: saved gradients of all processes.
        by_rank: those of each.
        trainer: that resumes.
    """
    if len(by_rank) == trainer.world_size:
        return {**shared, **by_rank[trainer.global_rank]}
    mean: dict[str, Tensor] = {}
    for gradients in by_rank:
        for name, gradient in gradients.items():
            part = gradient / len(by_rank)
            mean[name] = mean[name] + part if name in mean else part
    return {**shared, **mean}


def restore_gradients(
    module: LightningModule, shared: Gradients, by_rank: Sequence[Gradients], trainer: Trainer
) -> None:
    """Restore the gradients of an update that was not finished.

    Args:
        module: that is trained.
        shared: saved gradients of all processes.
        by_rank: those of each.
        trainer: that resumes.

    Raises:
        UsageError: one does not fit its parameter.
    """
    parameters = dict(module.named_parameters())
    # those of the others too, so that all processes refuse them
    for gradients in (shared, *by_rank):
        for name in gradients.keys() & parameters.keys():
            _check_gradient(name, gradients[name], parameters[name])
    for name, gradient in choose_gradients(shared, by_rank, trainer).items():
        if (p := parameters.get(name)) is not None:
            # a copy, since what is loaded may have one number for several elements
            own = gradient.to(device=p.device, dtype=p.dtype, copy=True)
            p.grad = shard_like(own, p)


def _check_gradient(name: str, gradient: Tensor, p: Tensor) -> None:
    dense_or_sparse = gradient.layout in (torch.strided, torch.sparse_coo)
    hollow = gradient.is_meta or gradient.is_nested
    kind = gradient.dtype
    # numbers in fewer bits cannot be added
    addable = (kind.is_floating_point or kind.is_complex) and kind.itemsize > 1
    fits = dense_or_sparse and not hollow and addable and kind.is_complex == p.is_complex()
    if not fits:
        raise UsageError(
            f"the checkpoint cannot be resumed: the gradient of {name} is not a valid gradient "
            f"for a parameter of {p.dtype}"
        )
    if gradient.shape != p.shape:
        raise UsageError(
            f"the checkpoint cannot be resumed: the gradient of {name} has the shape "
            f"{[*gradient.shape]}, and the parameter {[*p.shape]}"
        )
