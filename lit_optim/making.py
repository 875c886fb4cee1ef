"""Creates an optimizer from groups: with roles if it needs them, bare if it refuses their keys."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value, first_line, suggest
from lit_optim.optimizers import find_optimizer
from lit_optim.optimizers.base.groups import BOOKKEEPING, apply_lr_mult
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.parameters import MissingRoles
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: The errors with which a constructor refuses param groups.
REFUSALS = (ValueError, TypeError, KeyError, AssertionError, NotImplementedError)
#: Keys of lit_optim's groups that are not hyperparameters, which other classes may not know.
EXTRA = (BOOKKEEPING - {"params"}) | {"lr_mult"}

#: The key of a node of Hydra, which names what it is a configuration of.
TARGET = "_target_"

Groups = Sequence[Mapping[str, Any]]


def make_optimizer(make: Callable[[Any], Any], groups: Groups) -> Any:
    """Call an optimizer's class, or a partial of it, with param groups.

    If the class refuses them because of keys that are not hyperparameters, it gets them without
    these. If it takes a single group, it gets all parameters in one, provided that the groups
    differ only in weight decay that is 0 everywhere; a log line says so.

    Args:
        make: returns an optimizer.
        groups: with `name`, `param_names`, `role` and `lr_mult`, as lit_optim.param_groups returns
            them.

    Raises:
        UsageError: the class refuses them in every form; the message is its own with advice.
    """
    try:
        made = make([dict(group) for group in groups])
    except UsageError:
        raise
    except REFUSALS as error:
        kind = optimizer_class(make)
        if inspect.isclass(kind) and issubclass(kind, OptimizerBase):
            raise
        return _make_from_bare_groups(make, groups, error)
    _scale(made, groups)
    return made


def make_optimizer_by_role(
    make: Callable[[Any], Any],
    divide: Callable[[bool], list[dict[str, Any]]],
    allowed: str,
) -> Optimizer:
    """Create an optimizer; one that needs roles gets groups that are divided by them.

    Whether it needs them is declared by its class, which is known of a class or a partial. What
    another function makes is asked: if it needs roles and has none, it is made once more.

    Args:
        make: returns an optimizer.
        divide: returns the param groups, with roles or without.
        allowed: what `make` may be, for the error if it returns something else.

    Raises:
        UsageError: as `make_optimizer`, or the function returns no optimizer or does not pass on
            the roles.
    """
    if not _declares_roles(optimizer_class(make)):
        with _held_back_warnings() as held:
            try:
                made: Optimizer | None = make_optimizer(make, divide(False))
            except MissingRoles:
                made = None
            else:
                _check_is_optimizer(made, allowed)
                made = None if _lacks_roles(made) else made
            if made is None:
                held.clear()
        if made is not None:
            return made
    return _make_with_roles(make, divide(True), allowed)


def read_optimizer_config(config: Mapping[Any, Any], allowed: str) -> Callable[..., Any]:
    """Return the class of {"name": "adamw", "lr": 1e-3} with its hyperparameters.

    Args:
        config: the mapping.
        allowed: what an optimizer may be given as, for the message.

    Raises:
        UsageError: it has no name, there is no such optimizer, or it takes no such hyperparameter.
    """
    reject_target("optimizer", config)
    given = {str(key): value for key, value in config.items()}
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(
            f"optimizer must be {allowed}, got {describe_value(config)} without a name, as in "
            '{"name": "adamw", "lr": 1e-3}'
        )
    kind = find_optimizer(name)
    known = [key for key in inspect.signature(kind).parameters if key != "params"]
    for key in given:
        if key not in known:
            raise UsageError(
                f"{kind.__name__} takes no {key}{suggest(key, known)} (it takes {', '.join(known)})"
            )
    return partial(kind, **given)


def reject_target(argument: str, config: Mapping[Any, Any]) -> None:
    """Refuse a configuration of Hydra from which nothing has been made.

    Raises:
        UsageError: saying how to make it.
    """
    if TARGET in config:
        raise UsageError(
            f"{argument} is a configuration of {config[TARGET]}: make it first, by "
            f"hydra.utils.instantiate(cfg.{argument})"
        )


def optimizer_class(make: Any) -> Any:
    """Return the class or the function behind partials and wrappers."""
    while True:
        inner = getattr(make, "func", None) or getattr(make, "make", None)
        if inner is None:
            return make
        make = inner


def _make_with_roles(
    make: Callable[[Any], Any], groups: list[dict[str, Any]], allowed: str
) -> Optimizer:
    try:
        made: Optimizer = make_optimizer(make, groups)
    except MissingRoles as error:
        raise UsageError(
            f"{error}; the function that makes it was given such groups and must pass them on as "
            "they are"
        ) from error
    _check_is_optimizer(made, allowed)
    others = [group for group in groups if group["role"] != "hidden"]
    if others and _lacks_roles(made):
        name = type(innermost_optimizer(made)).__name__
        first = (others[0].get("param_names") or ["a parameter"])[0]
        raise UsageError(
            f"{name} takes hidden matrices, but {first} is not one: the function that makes it was "
            "given groups with roles and must pass them on as they are"
        )
    return made


def _check_is_optimizer(made: Any, allowed: str) -> None:
    if not isinstance(made, Optimizer):
        raise UsageError(
            f"optimizer must be {allowed}; called with the param groups it gave "
            f"{describe_value(made)}"
        )


def _declares_roles(optimizer: Any) -> bool:
    """Whether an optimizer or its class says that it needs roles."""
    needs = getattr(optimizer, "requirements", ())
    return isinstance(needs, tuple) and "roles" in needs


def _lacks_roles(optimizer: Any) -> bool:
    """Whether an optimizer needs roles, and its groups have none."""
    return _declares_roles(innermost_optimizer(optimizer)) and not any(
        group.get("role") for group in optimizer.param_groups
    )


@contextmanager
def _held_back_warnings() -> Iterator[list[logging.LogRecord]]:
    """Hold back our warnings; those that are left in the list at the end are shown."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    LOG.addFilter(hold)
    try:
        yield held
    finally:
        LOG.removeFilter(hold)
        for record in held:
            LOG.handle(record)


def _make_from_bare_groups(make: Callable[[Any], Any], groups: Groups, error: Exception) -> Any:
    name = getattr(optimizer_class(make), "__name__", "the optimizer")
    bare = [{k: v for k, v in group.items() if k not in EXTRA} for group in groups]
    if any(group.keys() & EXTRA for group in groups):
        made = _try(make, [dict(group) for group in bare])
        if made is not None:
            _restore_keys(made, groups)
            return made
    params = [p for group in groups for p in group["params"]]
    for joined in ([{"params": params}], params):
        made = _try(make, joined)
        if made is not None:
            return _check_joined(made, groups, bare, name)
    raise UsageError(
        f"{name}: {first_line(error)} (if that is about a key of its param groups, "
        "param_groups=rules can set it)"
    ) from error


def _try(make: Callable[[Any], Any], params: Any) -> Any:
    """Return the optimizer, or None if it cannot be created."""
    try:
        return make(params)
    except Exception:  # the first error is reported
        return None


def _check_joined(made: Any, groups: Groups, bare: Groups, name: str) -> Any:
    """Log that all parameters are in one group, or refuse it if settings would be lost."""
    own = {key for group in bare for key in group.keys() - {"params"}}
    own |= {"lr_mult"} & {key for group in groups for key in group}
    decays = {group.get("weight_decay", 0.0) for group in bare}
    if own - {"weight_decay"} or decays - {0.0}:
        raise UsageError(
            f"{name} takes one param group, but param_groups gives {len(groups)} that differ in "
            f"{', '.join(sorted(own))}: use param_groups=single"
        )
    if len(groups) > 1 and all("name" in group for group in groups):  # otherwise it is only a trial
        LOG.info(
            f"{name} takes one param group: {', '.join(str(group['name']) for group in groups)} "
            "are one, as with param_groups=single"
        )
    return made


def _scale(made: Any, groups: Groups) -> None:
    """Multiply the lr by `lr_mult`, which the class does not know."""
    if not isinstance(made, Optimizer):
        return
    are_the_same = len(made.param_groups) == len(groups)
    for index, group in enumerate(made.param_groups):
        has_lr = are_the_same and "lr" in groups[index]  # beside it, it is a key of other code
        if "lr_mult" in group and not has_lr:
            lr = group.pop("lr")
            group.update(apply_lr_mult(group, lr))
            del group["lr_mult"]


def _restore_keys(made: Any, groups: Groups) -> None:
    """Restore the names and lr multipliers that the class did not get."""
    if isinstance(made, Optimizer) and len(made.param_groups) == len(groups):
        for group, given in zip(made.param_groups, groups, strict=True):
            group.update({k: given[k] for k in ("name", "lr_mult") if k in given})
    _scale(made, groups)
