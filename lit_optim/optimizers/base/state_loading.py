"""Loads the state dict of an optimizer: ours, an earlier one, or that of torch's class."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import plain_values
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.declared import TORCHS_EXECUTION, plain_arguments
from lit_optim.optimizers.base.groups import BOOKKEEPING, is_hyperparameter
from lit_optim.optimizers.base.hooks import (
    run_load_post_hooks,
    run_load_pre_hooks,
    without_load_hooks,
)
from lit_optim.optimizers.base.options import HOW
from lit_optim.optimizers.base.types import Group

#: Keys of torch's groups that say how a step is computed, and AdamW's `decoupled_weight_decay`.
TORCHS_OWN = {*TORCHS_EXECUTION, "decoupled_weight_decay"}


class StateLoading(torch.optim.Optimizer):
    """The part of `OptimizerBase` that loads a state dict, and rejects one that does not fit."""

    #: True where the paper adds weight_decay * p to the gradient; decoupled decay otherwise. A
    #: hyperparameter `decoupled_weight_decay` lets the user choose.
    coupled_weight_decay: ClassVar[bool] = False
    #: Keys of the param groups that the user cannot set, and their values.
    fixed: ClassVar[dict[str, Any]] = {}

    def owner(self, group: Group) -> StateLoading:
        """The optimizer that steps this group: itself, or a part of it."""
        return self

    def hyperparameters_for(self, p: Tensor, group: Group) -> Group:
        """The hyperparameters of one parameter."""
        raise NotImplementedError

    def initial_scalars(self, group: Group) -> dict[str, float]:
        """Numbers kept for each parameter beside its tensors, before the first update."""
        raise NotImplementedError

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """The tensors kept for p, by torch's names, before its first update."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of torch's class, with states at full precision."""
        state_dict = run_load_pre_hooks(self, state_dict)
        with without_load_hooks(self):
            self._load(state_dict)
        run_load_post_hooks(self)

    @torch.no_grad()
    def _load(self, state_dict: dict[str, Any]) -> None:
        how = [{key: group[key] for key in HOW} for group in self.param_groups]
        has_tensors = [isinstance(group["lr"], Tensor) for group in self.param_groups]
        foreign = [group.keys() - self.owner(group).defaults for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, kept, has_tensor, others in zip(
            self.param_groups, how, has_tensors, foreign, strict=True
        ):
            group.update(kept)
            owner = self.owner(group)
            known = {k: group[k] for k in (*owner.defaults, "initial_lr") if k in group}
            group.update(plain_arguments(known) if has_tensor else plain_values(known))
            owner._drop_foreign(group, others)
            owner._check_lengths(group)
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        checked: set[int] = set()
        owners = [(p, group) for group in self.param_groups for p in group["params"]]
        for i, (p, group) in zip(saved_ids, owners, strict=True):
            saved = {k: v for k, v in state_dict["state"].get(i, {}).items() if v is not None}
            if not saved:
                self.state.pop(p, None)
                continue
            # torch's SGD keeps no count: a state that exists has been stepped at least once
            state: dict[str, Any] = {"step": int(saved.pop("step", 1))}
            self.state[p] = state
            owner = self.owner(group)
            for name in owner.initial_scalars(group):
                if name not in saved:
                    owner._reject_state(name)
                state[name] = float(saved.pop(name))
            tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
            group = owner.hyperparameters_for(p, group)
            state.update(owner.load_tensors(p, group, tensors))
            if id(owner) not in checked and tensors:
                checked.add(id(owner))
                owner._check_states(p, group, state)

    def load_tensors(self, p: Tensor, group: Group, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make the tensors kept for p from those of a saved state."""
        # torch casts states to the parameter's dtype: bfloat16 would lose them
        return {
            name: value.to(p.device, compute_dtype(p), copy=True) for name, value in saved.items()
        }

    def _drop_foreign(self, group: Group, kept: set[str]) -> None:
        """Remove torch's own keys from a loaded group; reject those that would have an effect.

        Keys that are not hyperparameters stay: schedulers keep values there. So do those in `kept`,
        which the group had before, such as those of a wrapper.
        """
        for key in set(group) - set(self.defaults) - BOOKKEEPING - kept:
            if key not in TORCHS_OWN and not is_hyperparameter(key):
                continue
            value = group.pop(key)
            coupled = key == "decoupled_weight_decay" and self.coupled_weight_decay
            if (value and key not in TORCHS_OWN) or (value and coupled):
                raise UsageError(f"{type(self).__name__} has no {key}, but the state has {value!r}")
        for key, value in self.fixed.items():
            if group[key] != value:
                raise UsageError(
                    f"{type(self).__name__} has {key}={value}, but the state has {group[key]!r}"
                )

    def _check_states(self, p: Tensor, group: Group, state: dict[str, Any]) -> None:
        """Reject a loaded state without a tensor that the optimizer needs."""
        for name in self.new_state(p, group):
            if name not in state:
                self._reject_state(name)

    def _reject_state(self, missing: str) -> NoReturn:
        raise UsageError(
            f"{type(self).__name__} keeps {missing} of each parameter, which the state does not "
            "have: it is of another optimizer"
        )

    def _check_lengths(self, group: Group) -> None:
        """Reject a loaded group with more or fewer betas, say, than the optimizer has."""
        for key, value in self.defaults.items():
            given = group[key]
            if not isinstance(value, tuple) or given is None:
                continue
            if not isinstance(given, tuple | list) or len(given) != len(value):
                raise UsageError(
                    f"{type(self).__name__} has {len(value)} {key}, but the state has {given!r}"
                )
