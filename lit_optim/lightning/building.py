"""Builds an optimizer from param groups, divided by role if the optimizer needs that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.lightning.arguments import OPTIMIZER, MakeOptimizer
from lit_optim.lightning.finetuning import has_finetuning, remove_frozen
from lit_optim.lightning_classes import LightningModule
from lit_optim.making import make_optimizer_by_role, optimizer_class
from lit_optim.param_groups import by_role
from lit_optim.training.requirements import reject_run, requirements_of


def build_optimizer(
    make: MakeOptimizer,
    groups: list[dict[str, Any]],
    module: LightningModule,
    networks: Sequence[nn.Module] = (),
) -> Optimizer:
    """Return the optimizer that a function makes of param groups, with roles if it needs them.

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
    return make_optimizer_by_role(make, divide, OPTIMIZER)


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
            "create it from self.parameters()"
        )
    if has_finetuning(module.trainer) and any(not p.requires_grad for p in params):
        raise UsageError(
            f"this instance of {name} has frozen parameters, which a BaseFinetuning callback adds "
            f"when it unfreezes them: {advice}"
        )
