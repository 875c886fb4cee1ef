"""Builds an optimizer from param groups, divided by role if the optimizer needs that."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.lightning.arguments import MakeOptimizer, check_is_optimizer
from lit_optim.lightning.finetuning import has_finetuning, remove_frozen
from lit_optim.lightning_classes import LightningModule
from lit_optim.making import make_optimizer, optimizer_class
from lit_optim.optimizers.base.parameters import MissingRoles
from lit_optim.param_groups import by_role
from lit_optim.training.requirements import reject_run, requirements_of
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")


def build_optimizer(
    make: MakeOptimizer,
    groups: list[dict[str, Any]],
    module: LightningModule,
    networks: Sequence[nn.Module] = (),
) -> Optimizer:
    """Return the optimizer that a function makes of param groups.

    Whether it needs roles is declared by its class, which is known of a class or a partial. What
    another function makes is asked: if it needs roles and has none, it is made once more.

    Args:
        make: the function.
        groups: of parameters of the module.
        module: attached to its trainer.
        networks: parts of the module that are networks of their own; see `by_role`.

    Raises:
        UsageError: the function gives no optimizer, or one that does not fit the run.
    """

    def divide(with_roles: bool) -> list[dict[str, Any]]:
        divided = by_role(groups, module, networks) if with_roles else groups
        return remove_frozen(divided) if has_finetuning(module.trainer) else divided

    needs = requirements_of(make)
    if "roles" in needs:
        reject_run(needs, optimizer_class(make).__name__, module.trainer)
        made = make_optimizer(make, divide(True))
        check_is_optimizer(made)
        return made  # type: ignore[no-any-return]
    with _held_back_warnings() as held:
        try:
            made = make_optimizer(make, divide(False))
        except MissingRoles:
            made = None
        else:
            check_is_optimizer(made)
            made = None if _lacks_roles(made) else made
        if made is None:
            held.clear()
    return _build_with_roles(make, divide(True)) if made is None else made


def check_ready_made(
    optimizer: Optimizer, module: LightningModule, others: Mapping[str, Any]
) -> None:
    """Refuse an optimizer that was made before, if it does not fit the module or the run.

    Args:
        optimizer: as the user made it.
        module: attached to its trainer.
        others: arguments that decide how an optimizer is made, by name.

    Raises:
        UsageError: it has no parameter of the module; another argument contradicts it; or frozen
            parameters, which a callback is to add later.
    """
    name = type(optimizer).__name__
    advice = f"give the class, as partial({name}, lr=...)"
    for argument, value in others.items():
        if value is not None:
            raise UsageError(
                f"{argument} has no effect on an instance of {name}, which has its groups and "
                f"lrs: {advice}"
            )
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = set(module.parameters())
    if own.isdisjoint(params):
        raise UsageError(
            f"this instance of {name} has no parameter of {type(module).__name__}: {advice}, or "
            f"make it of self.parameters()"
        )
    if has_finetuning(module.trainer) and any(not p.requires_grad for p in params):
        raise UsageError(
            f"this instance of {name} has frozen parameters, which a BaseFinetuning callback adds "
            f"when it unfreezes them: {advice}"
        )


def _build_with_roles(make: MakeOptimizer, groups: list[dict[str, Any]]) -> Optimizer:
    try:
        made: Optimizer = make_optimizer(make, groups)
    except MissingRoles as error:
        raise UsageError(
            f"{error}; the function that makes it was given such groups and must pass them on as "
            "they are"
        ) from error
    check_is_optimizer(made)
    others = [group for group in groups if group["role"] != "hidden"]
    if others and _lacks_roles(made):
        name = type(innermost_optimizer(made)).__name__
        first = (others[0].get("param_names") or ["a parameter"])[0]
        raise UsageError(
            f"{name} takes hidden matrices, and {first} is none: the function that makes it was "
            "given groups with roles and must pass them on as they are"
        )
    return made


def _lacks_roles(optimizer: Optimizer) -> bool:
    """Whether an optimizer needs roles, and its groups have none."""
    needs = requirements_of(innermost_optimizer(optimizer))
    return "roles" in needs and not any("role" in group for group in optimizer.param_groups)


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
