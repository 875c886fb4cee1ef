"""What a param group may hold, for our optimizers and for torch's own alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check

#: Keys of a param group that are no hyperparameters. `role` is what its parameters are in the model
#: (hidden, embedding, head, ...); `split`, into how many matrices of equal height each of them is
#: to be cut, as for a fused projection to queries, keys and values.
BOOKKEEPING = {"params", "name", "param_names", "initial_lr", "role", "split"}


def accepted(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """A group as `optimizer` takes it; the caller's stays as it is.

    A weight decay of 0 asks for nothing, so it is dropped where the optimizer has none: groups that
    were made for any optimizer then fit. What the class has `fixed` is not for a group to set. An
    `lr_mult` goes into the lr.

    Raises:
        ValueError: a key that is no hyperparameter, or a value out of its range.
    """
    known, fixed = optimizer.defaults, getattr(optimizer, "fixed", {})
    kept: dict[str, Any] = {}
    for key, value in group.items():
        if key == "weight_decay" and key not in known and not value:
            continue
        foreign = key not in known and key not in BOOKKEEPING and key != "lr_mult"
        if foreign or (key in fixed and value != fixed[key]):
            allowed = ", ".join(name for name in known if name not in fixed)
            raise UsageError(
                f"{type(optimizer).__name__} has no {key!r}; a param group may set {allowed}"
            )
        kept[key] = value
    kept = scaled(kept, known.get("lr"))
    hyper = {key: value for key, value in kept.items() if key not in BOOKKEEPING}
    check(type(optimizer).__init__, hyper)
    others = optimizer.param_groups
    return _named(kept, len(others)) if others and "param_names" in others[0] else kept


def _named(group: dict[str, Any], index: int) -> dict[str, Any]:
    """A group that comes to others whose parameters have names: torch wants them of all or none."""
    group = with_names(group)
    name: str = group.setdefault("name", f"group{index}")
    group.setdefault("param_names", [f"{name}.{k}" for k in range(len(group["params"]))])
    return group


def scaled(group: dict[str, Any], lr: float | None) -> dict[str, Any]:
    """A group whose `lr_mult` has become a part of its lr.

    Args:
        group: any.
        lr: of the optimizer, for a group that has none of its own.

    Raises:
        UsageError: neither has an lr.
    """
    if "lr_mult" not in group:
        return group
    rest = {key: value for key, value in group.items() if key != "lr_mult"}
    own = group.get("lr", lr)
    if own is None:
        raise UsageError(f"lr_mult={group['lr_mult']} is a factor of lr, but lr is null")
    return rest | {"lr": own * group["lr_mult"]}


def plain(value: Any) -> Any:
    """A hyperparameter that torch may keep as a tensor, an lr or betas, as numbers."""
    if isinstance(value, Tensor):
        return value.item()
    return type(value)(map(plain, value)) if isinstance(value, tuple | list) else value


def with_names(group: dict[str, Any]) -> dict[str, Any]:
    """A group with its params in a list; names of (name, tensor) pairs go to `param_names`."""
    params = group["params"]
    if isinstance(params, set):
        raise TypeError("params must have an order, but they are in a set")
    params = [params] if isinstance(params, Tensor) else list(params)
    if params and all(isinstance(p, tuple) for p in params):
        names, tensors = zip(*params, strict=True)
        return group | {"params": list(tensors), "param_names": list(names)}
    return group | {"params": params}
