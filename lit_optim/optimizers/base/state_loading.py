"""Loads the state dict of an optimizer: ours, an earlier one, or that of torch's class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from lit_optim.errors import UsageError, describe_value, show
from lit_optim.hyperparameters import accepts, describe, hints_of, plain, plain_values
from lit_optim.optimizers.base.declared import TORCHS_EXECUTION, plain_arguments
from lit_optim.optimizers.base.groups import BOOKKEEPING, is_hyperparameter
from lit_optim.optimizers.base.options import HOW
from lit_optim.optimizers.base.parameters import label_parameters
from lit_optim.optimizers.base.types import Group
from lit_optim.sharding import local_tensor
from lit_optim.sharding.saved import check_form, fit
from lit_optim.torch_hooks import (
    run_load_post_hooks,
    run_load_pre_hooks,
    without_hooks,
)

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
        state_dict = run_load_pre_hooks(self, check_form(type(self).__name__, state_dict))
        with without_hooks(self):
            self._load(state_dict)
        run_load_post_hooks(self)

    @torch.no_grad()
    def _load(self, state_dict: dict[str, Any]) -> None:
        how = [{key: group[key] for key in HOW} for group in self.param_groups]
        has_tensors = [isinstance(group["lr"], Tensor) for group in self.param_groups]
        foreign = [group.keys() - self.owner(group).defaults for group in self.param_groups]
        super().load_state_dict(state_dict | {"state": {}})  # which torch would copy in vain
        for group, kept, has_tensor, others in zip(
            self.param_groups, how, has_tensors, foreign, strict=True
        ):
            group.update(kept)
            owner = self.owner(group)
            known = {k: group[k] for k in (*owner.defaults, "initial_lr") if k in group}
            group.update(plain_arguments(known) if has_tensor else plain_values(known))
            owner._drop_foreign(group, others)
            owner._check_hyperparameters(group)
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        owners = [
            (label, p, group) for group in self.param_groups for label, p in label_parameters(group)
        ]
        states = state_dict["state"]
        for i, (label, p, group) in zip(saved_ids, owners, strict=True):
            saved = {k: v for k, v in states.get(i, {}).items() if not _is_empty(k, v)}
            if not saved:
                self.state.pop(p, None)
                continue
            self.state[p] = self._read_state(label, p, group, saved)

    def _read_state(
        self, label: str, p: Tensor, group: Group, saved: dict[str, Any]
    ) -> dict[str, Any]:
        """The state of a parameter, made of a saved one; `saved` is changed."""
        owner = self.owner(group)
        # torch's SGD keeps no count: a state that exists has been stepped at least once
        state: dict[str, Any] = {"step": owner._read_number(label, saved, "step", 1)}
        for name in owner.initial_scalars(group):
            if name not in saved:
                owner._reject_state(name)
            state[name] = float(owner._read_number(label, saved, name))
        tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        group = owner.hyperparameters_for(p, group)
        state.update(owner.load_tensors(p, group, tensors, label))
        return state

    def follow_loading(self, zero: Any) -> None:
        """Make states of what torch's ZeroRedundancyOptimizer puts into `state` as it was saved.

        It loads a state dict without calling `load_state_dict` of the optimizers that it made.
        """

        def keep_how(_: Any, state_dict: dict[str, Any]) -> None:
            for saved, own in zip(state_dict["param_groups"], zero.param_groups, strict=True):
                saved.update({key: own[key] for key in HOW})

        @torch.no_grad()
        def read_states(_: Any) -> None:
            for group in self.param_groups:
                for label, p in label_parameters(group):
                    saved = {k: v for k, v in self.state[p].items() if not _is_empty(k, v)}
                    if saved:
                        self.state[p] = self._read_state(label, p, group, saved)

        zero.register_load_state_dict_pre_hook(keep_how)
        zero.register_load_state_dict_post_hook(read_states)

    def load_tensors(
        self, p: Tensor, group: Group, saved: dict[str, Tensor], label: str
    ) -> dict[str, Tensor]:
        """Make the tensors kept for p from those of a saved state.

        Args:
            p: the parameter.
            group: its hyperparameters.
            saved: the tensors by name; whole, or divided between processes.
            label: the name of p, for messages.

        Raises:
            UsageError: one is missing or has another shape.
        """
        tensors = self.new_state(p, group)
        for name, now in tensors.items():
            if name not in saved:
                self._reject_state(name)
            self.copy_saved(now, saved[name], f"{name} of parameter {label}")
        return tensors

    def copy_saved(self, now: Tensor, value: Tensor, what: str) -> None:
        """Copy a saved tensor into a state; only its shard, or nothing if another process has it.

        Raises:
            UsageError: it has another shape.
        """
        shape = torch.Size(size for size in now.shape if size != 1)
        if shape != torch.Size(size for size in value.shape if size != 1):
            self._reject_shape(what, value, now.shape)
        part = fit(value, now)
        if not now.is_meta:  # another process has it
            local = local_tensor(now)
            local.copy_(part.reshape(local.shape))

    def _reject_shape(self, what: str, value: Tensor, shape: Sequence[int]) -> NoReturn:
        raise UsageError(
            f"{type(self).__name__}: the saved {what} has shape {list(value.shape)} and not "
            f"{list(shape)}: it belongs to a different model"
        )

    def _read_number(
        self, label: str, saved: dict[str, Any], name: str, otherwise: Any = None
    ) -> Any:
        """Take a number out of a saved state; a count as an int."""
        value = saved.pop(name, otherwise)
        try:
            number = float(value)
            if otherwise is None:
                return number
            if number < 0:
                raise ValueError
            return int(number)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise UsageError(
                f"{type(self).__name__}: the saved {name} of parameter {label} is "
                f"{describe_value(value)}, not a number{' of updates' if otherwise else ''}"
            ) from None

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

    def _reject_state(self, missing: str) -> NoReturn:
        raise UsageError(
            f"{type(self).__name__} keeps {missing} of each parameter, which the state does not "
            "have: it belongs to a different optimizer"
        )

    def _check_hyperparameters(self, group: Group) -> None:
        """Reject a loaded group with a value out of range, or with more betas, say, than it has."""
        name, hints = type(self).__name__, hints_of(type(self).__init__)
        for key, value in self.defaults.items():
            given = group[key]
            has_length = isinstance(value, tuple) and given is not None
            if has_length and not (isinstance(given, tuple | list) and len(given) == len(value)):
                raise UsageError(f"{name} has {len(value)} {key}, but the state has {given!r}")
            if key in hints and not accepts(plain(given), hints[key]):
                raise UsageError(
                    f"{name}: {key} must be {describe(hints[key])}, but the state has {show(given)}"
                )


def _is_empty(name: str, value: Any) -> bool:
    """Whether an entry of a saved state is none of the optimizer's."""
    # torch's flattened state dicts have {} for what was not saved; wrappers use names with a dot
    return value is None or (isinstance(value, dict) and not value) or "." in str(name)
