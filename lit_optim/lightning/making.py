"""An optimizer of param groups, also where it does not take them as they are."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import UsageError, first_line
from lit_optim.optimizers.base.groups import BOOKKEEPING, scaled
from lit_optim.optimizers.base.optimizer import OptimizerBase

LOG = logging.getLogger("lit_optim")

#: How a constructor refuses param groups that it does not take.
REFUSALS = (ValueError, TypeError, KeyError, AssertionError, NotImplementedError)
#: What our groups say beside hyperparameters, which a class of somebody else may not know.
EXTRA = (BOOKKEEPING - {"params"}) | {"lr_mult"}

Groups = Sequence[Mapping[str, Any]]


def make_optimizer(make: Callable[[Any], Any], groups: Groups) -> Any:
    """Call an optimizer's class, or a partial of it, with param groups.

    A class that refuses them because of what they say beside hyperparameters gets them without.
    One that takes a single group gets all parameters in one, where the groups differ in nothing
    but which are decayed; a line says so.

    Args:
        make: gives an optimizer.
        groups: with `name`, `param_names`, `role` and `lr_mult` as our functions give them.

    Raises:
        UsageError: it refuses them in any form; the message is its own, and says what helps.
    """
    try:
        made = make([dict(group) for group in groups])
    except UsageError:
        raise
    except REFUSALS as error:
        kind = optimizer_class(make)
        if inspect.isclass(kind) and issubclass(kind, OptimizerBase):
            raise
        return _make_otherwise(make, groups, error)
    _scale(made, groups)
    return made


def optimizer_class(make: Any) -> Any:
    """The class, or the function, behind partials and wrappers."""
    while True:
        inner = getattr(make, "func", None) or getattr(make, "make", None)
        if inner is None:
            return make
        make = inner


def _make_otherwise(make: Callable[[Any], Any], groups: Groups, error: Exception) -> Any:
    name = getattr(optimizer_class(make), "__name__", "the optimizer")
    bare = [{k: v for k, v in group.items() if k not in EXTRA} for group in groups]
    if any(group.keys() & EXTRA for group in groups):
        made = _try(make, [dict(group) for group in bare])
        if made is not None:
            _put_back(made, groups)
            return made
    params = [p for group in groups for p in group["params"]]
    for joined in ([{"params": params}], params):
        made = _try(make, joined)
        if made is not None:
            return _joined(made, groups, bare, name)
    raise UsageError(
        f"{name}: {first_line(error)} (if that is about a key of its param groups, "
        "param_groups=rules can set it)"
    ) from error


def _try(make: Callable[[Any], Any], params: Any) -> Any:
    """What is made of them, or None."""
    try:
        return make(params)
    except Exception:  # any: the first refusal is told
        return None


def _joined(made: Any, groups: Groups, bare: Groups, name: str) -> Any:
    """Tell that all parameters are one group now, unless something is lost by that."""
    own = {key for group in bare for key in group.keys() - {"params"}}
    own |= {"lr_mult"} & {key for group in groups for key in group}
    decays = {group.get("weight_decay", 0.0) for group in bare}
    if own - {"weight_decay"} or decays - {0.0}:
        raise UsageError(
            f"{name} takes one param group, but param_groups gives {len(groups)} that differ in "
            f"{', '.join(sorted(own))}: param_groups=single would do"
        )
    if len(groups) > 1 and all("name" in group for group in groups):  # else it is only tried
        LOG.info(
            f"{name} takes one param group: {', '.join(str(group['name']) for group in groups)} "
            "are one, as with param_groups=single"
        )
    return made


def _scale(made: Any, groups: Groups) -> None:
    """Let `lr_mult` be a part of the lr, where the class does not know it."""
    if isinstance(made, Optimizer):
        for group in made.param_groups:
            group.update(scaled(group, group.get("lr")))
            group.pop("lr_mult", None)


def _put_back(made: Any, groups: Groups) -> None:
    """What the groups are called, and their share of the lr, after a class has not taken it."""
    if isinstance(made, Optimizer) and len(made.param_groups) == len(groups):
        for group, given in zip(made.param_groups, groups, strict=True):
            group.update({k: given[k] for k in ("name", "lr_mult") if k in given})
    _scale(made, groups)
