"""Loads pretrained weights into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lit_optim.checkpoints.files import find_damage
from lit_optim.errors import UsageError
from lit_optim.lightning_classes import LightningModule

#: The number of names in a message.
MAX_NAMES = 3


def load_weights(model: LightningModule, path: str) -> None:
    """Load the weights of a file, which must have exactly the model's names and shapes.

    Args:
        model: before it is trained.
        path: of a state dict, as `torch.save(model.state_dict(), path)` writes it, or of a
            Lightning checkpoint. It is loaded with `weights_only`.

    Raises:
        UsageError: the file is damaged, is neither of these, or does not fit the model.
    """
    if (why_not := find_damage(Path(path))) is not None:
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
        problems.append(f"it lacks {_format_names(missing)}")
    if unexpected := [name for name in saved if name not in own]:
        problems.append(f"the model has no {_format_names(unexpected)}")
    for name, tensor in own.items():
        saved_tensor = saved.get(name)
        is_tensor = isinstance(tensor, Tensor) and not is_lazy(tensor)
        if is_tensor and isinstance(saved_tensor, Tensor) and saved_tensor.shape != tensor.shape:
            shapes = _format_shape(saved_tensor), _format_shape(tensor)
            problems.append(f"{name} is {shapes[0]} there and {shapes[1]} in the model")
            break
    prefix = f"weights={path} does not fit {type(model).__name__}: "
    if problems:
        raise UsageError(prefix + "; ".join(problems))
    try:
        model.load_state_dict(saved)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:  # the module's own check
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(prefix + reason) from error


def _state_dict(saved: Any) -> Mapping[str, Any] | None:
    """Return the weights in a loaded file; None if there are none."""
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    tensors = isinstance(saved, Mapping) and any(isinstance(v, Tensor) for v in saved.values())
    return saved if tensors else None


def _format_names(names: Iterable[str]) -> str:
    listed = [*names]
    rest = len(listed) - MAX_NAMES
    return ", ".join(listed[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _format_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
