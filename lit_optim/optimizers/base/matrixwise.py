"""The base of algorithms for hidden matrices; AdamW, within the same optimizer, updates the rest.

The `role` of a param group decides: the algorithm updates hidden groups and those without a role,
AdamW the others. Both share the param groups and the state of one optimizer, so that a schedule
reaches every group and there is one state dict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.declared import setting
from lit_optim.optimizers.base.groups import check_is_group, follow_division, with_names
from lit_optim.optimizers.base.layout import Layout, check_layout
from lit_optim.optimizers.base.matrix_roles import HIDDEN, read_use_muon, with_roles
from lit_optim.optimizers.base.matrix_step import MatrixStep
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.optimizers.base.parameters import (
    MissingRoles,
    check_parameters,
    divide_group,
    label_parameters,
)
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Params
from lit_optim.requirements import Requirement
from lit_optim.sharding.zero import check_added_group

LOG = logging.getLogger("lit_optim")


class Matrixwise(MatrixStep):
    """An optimizer of matrices, which updates many of one shape at a time.

    See `MatrixStep` for what a subclass declares and writes. A convolution is the matrix of shape
    [out, in * height * width]. In a group with `split` a parameter is that many matrices, stacked
    along their outputs, and in a `transposed` group it is stored as [in, out, ...].

    Args:
        adamw_lr: the lr of AdamW's parameters; null: a multiple of lr that depends on the class.
        adamw_betas: the betas of AdamW.
        adamw_eps: the eps of AdamW.
        adamw_weight_decay: the weight decay of AdamW's parameters.
        roles: patterns of parameter names and who updates them, whatever the model says: hidden,
            the matrix method, or other, AdamW: {"*.gate.weight": other}.
    """

    adamw_lr: NonNegative | None = setting(default=None, kw_only=True)
    adamw_betas: Betas = setting(default=(0.9, 0.95), kw_only=True)
    adamw_eps: NonNegative = setting(default=1e-8, kw_only=True)
    adamw_weight_decay: NonNegative = setting(default=0.01, kw_only=True)
    roles: Mapping[str, Literal["hidden", "other"]] | None = setting(default=None, kw_only=True)

    requirements: ClassVar[tuple[Requirement, ...]] = ("dense", "roles", "whole")
    needs_shapes: ClassVar[bool] = True
    #: adamw_lr in units of lr, unless it is given.
    adamw_share: ClassVar[float] = 1.0

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        of_adamw = {name: values.pop(f"adamw_{name}") for name in ("lr", "betas", "eps")}
        of_adamw["weight_decay"] = values.pop("adamw_weight_decay")
        if of_adamw["lr"] is None:
            of_adamw["lr"] = self.adamw_share * values["lr"]
        roles = values.pop("roles") or {}
        self._adamw_defaults = of_adamw | {k: v for k, v in values.items() if k in OPTIONS}
        #: AdamW, for the groups that are not hidden; None where there are none.
        self.adamw: AdamW | None = None
        #: How many decompositions failed even in float64; the previous result was kept.
        self.failures = 0
        super().set_up(with_roles(params, roles), values)
        if not any(self.owner(group) is self for group in self.param_groups):
            raise UsageError(
                f"{type(self).__name__} needs hidden weight matrices, and there are none among "
                "these parameters; use AdamW (optimizer=adamw)"
            )

    def owner(self, group: Group) -> OptimizerBase:
        hidden = group.get("role", HIDDEN) == HIDDEN
        return self if hidden or self.adamw is None else self.adamw

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, to the matrix method or to AdamW, by its `role`.

        A group of a module, or of its untouched generator, becomes one for each role.

        Raises:
            MissingRoles: it has no role, and not all of its parameters are matrices.
            ValueError: it sets another precision of states or parameters, or it is hidden and a
                parameter is not a matrix or cannot be split as it says.
        """
        check_is_group(param_group)
        check_added_group(self)
        param_group = read_use_muon(param_group)
        first, *others = divide_group(param_group)
        if first is not param_group:
            for part in (first, *others):
                self.add_param_group(part)
            return
        if param_group.get("role", HIDDEN) == HIDDEN:
            param_group = with_names(param_group)
            self._check_matrices(param_group)
            super().add_param_group(param_group)
            for key in ("state_dtype", "master"):
                if self.param_groups[-1][key] != OPTIONS[key]:
                    raise UsageError(
                        f"{key}={self.param_groups[-1][key]} is for optimizers that look at one "
                        f"coordinate at a time, which {type(self).__name__} does not"
                    )
            return
        param_group = with_names(param_group)
        check_parameters(self, param_group)
        if self.adamw is None:
            self.adamw = AdamW([param_group], **self._adamw_defaults)
            self._join()
        else:
            self.adamw.add_param_group(param_group)
        self.param_groups.append(self.adamw.param_groups[-1])

    def _join(self) -> None:
        """Let AdamW share the state; its own param groups are those that are not hidden."""
        if self.adamw is not None:
            self.adamw.state = self.state
            self.adamw.__dict__["label"] = f"{type(self).__name__}'s AdamW"  # in messages

    def _check_matrices(self, group: Group) -> None:
        check_layout(group)
        name, layout = type(self).__name__, Layout.of(group)
        check_parameters(self, group)
        for label, p in label_parameters(group):
            what = f"parameter {label} has shape {list(p.shape)}"
            if p.ndim < 2 and "role" not in group:
                raise MissingRoles(
                    f"{name} updates hidden matrices, but {what}: pass the model, {name}(model), "
                    "or groups from lit_optim.param_groups(model), which add_param_group takes one "
                    "by one, so that AdamW takes the others"
                )
            if p.ndim < 2:
                raise UsageError(
                    f"{name} updates hidden matrices, but {what}: give its group another role "
                    "than hidden, and AdamW takes it"
                )
            if (rows := layout.rows(p)) % layout.split:
                raise UsageError(
                    f"split={layout.split} does not divide the {rows} outputs of parameter {label} "
                    f"of shape {list(p.shape)}{' (transposed)' if layout.transposed else ''}"
                )
        if "role" not in group and not self.__dict__.get("_has_warned"):
            self.__dict__["_has_warned"] = True
            LOG.warning(
                "%s: parameters without roles are all taken as hidden matrices; %s(model), or "
                "groups from lit_optim.param_groups(model), leave embeddings and the head to AdamW",
                name,
                name,
            )

    def _load(self, state_dict: dict[str, Any]) -> None:
        # earlier versions did not know all transposed or fused weights, and had other groups
        may_join = not (self.row_states or self.side_states)
        groups = follow_division(state_dict["param_groups"], self.param_groups, may_join)
        super()._load(state_dict | {"param_groups": groups})

    def keep_if_failed(self, what: str, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """Replace results that failed by the previous ones, and count the failures.

        Args:
            what: what failed, for the warning, which is logged once.
            new: results of shape [batch, k, k], not finite where the computation failed.
            old: the previous results, of the same shape.

        Returns:
            the results, and which of them are new, [batch].
        """
        ok = new.isfinite().flatten(1).all(1)
        failed = int((~ok).sum())
        if failed and not self.failures:
            name = type(self).__name__
            LOG.warning("%s: %s failed, in float64 too; the last one is kept", name, what)
        self.failures += failed
        return torch.where(ok[:, None, None], new, old) if failed else new, ok

    def __getstate__(self) -> dict[str, Any]:
        names = ("adamw", "_adamw_defaults", "failures")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for old, new in (("rest", "adamw"), ("_aside", "_adamw_defaults")):  # of earlier pickles
            if old in state:
                state[new] = state.pop(old)
        if "adamw" in state:
            self.adamw = state["adamw"]
        super().__setstate__(state)
        if self.adamw is not None:
            self._join()
            own = [group for group in self.param_groups if self.owner(group) is self.adamw]
            self.adamw.param_groups = own
