"""Pretrained weights to begin a run with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.parameter import is_lazy

from lit_optim.checkpoints.files import refusal
from lit_optim.errors import UsageError

#: So many names a message lists.
FEW = 3


def load_weights(model: LightningModule, path: str) -> None:
    """Load the weights of a file into a model: all that it has, and no others.

    Args:
        model: before it is trained.
        path: of a state dict, as `torch.save(model.state_dict(), path)` writes it, or of a
            Lightning checkpoint. Nothing but plain values is read (`weights_only`).

    Raises:
        UsageError: the file cannot be read, is neither of these, or does not fit the model.
    """
    if (why_not := refusal(Path(path))) is not None:
        raise UsageError(f"weights={path} {why_not}")
    saved = _state_dict(torch.load(path, map_location="cpu", weights_only=True))
    if saved is None:
        raise UsageError(
            f"weights={path} is neither a state dict, as torch.save(model.state_dict(), ...) "
            "writes it, nor a Lightning checkpoint"
        )
    own = model.state_dict()
    problems = []
    if missing := [name for name in own if name not in saved]:
        problems.append(f"it lacks {_listed(missing)}")
    if unexpected := [name for name in saved if name not in own]:
        problems.append(f"the model has no {_listed(unexpected)}")
    for name, tensor in own.items():
        there = saved.get(name)
        is_tensor = isinstance(tensor, Tensor) and not is_lazy(tensor)
        if is_tensor and isinstance(there, Tensor) and there.shape != tensor.shape:
            problems.append(f"{name} is {_shape(there)} there and {_shape(tensor)} in the model")
            break
    misfit = f"weights={path} does not fit {type(model).__name__}: "
    if problems:
        raise UsageError(misfit + "; ".join(problems))
    try:
        model.load_state_dict(saved)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:  # what a module itself refuses
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(misfit + reason) from error


def _state_dict(saved: Any) -> Mapping[str, Any] | None:
    """The weights in what was read; None where there are none."""
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    tensors = isinstance(saved, Mapping) and any(isinstance(v, Tensor) for v in saved.values())
    return saved if tensors else None


def _listed(names: Iterable[str]) -> str:
    first, *others = names
    more = others[: FEW - 1]
    rest = len(others) - len(more)
    return ", ".join([first, *more]) + (f" and {rest} more" if rest else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
