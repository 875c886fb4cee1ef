"""The base of torch's own optimizers, with declared hyperparameters and checked param groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.declared import TORCHS_EXECUTION, TakesTorchsArguments
from lit_optim.optimizers.base.groups import check_group, join_groups, with_names
from lit_optim.optimizers.base.parameters import label_parameters, list_params
from lit_optim.optimizers.base.types import Params
from lit_optim.sharding.saved import check_form, copy_like


class TorchOptimizer(TakesTorchsArguments, torch.optim.Optimizer):
    """An optimizer that inherits its algorithm from a class of torch, which is its second base."""

    params: Params

    #: Whether all parameters are one group; several groups are joined.
    has_one_group: ClassVar[bool] = False
    #: Whether a step joins all parameters in one vector, which is on one device.
    joins_parameters: ClassVar[bool] = False
    #: Whether a step reads values on the host, which a parameter on the meta device does not have.
    reads_values: ClassVar[bool] = False
    #: Whether parameters must have a shape when the optimizer is made.
    needs_shapes: ClassVar[bool] = False
    #: Whether an update of one parameter depends on the gradients of others.
    needs_all_gradients: ClassVar[bool] = False
    #: Whether parameters may be DTensors.
    takes_shards: ClassVar[bool] = False
    #: Whether every parameter must be a matrix.
    takes_matrices_only: ClassVar[bool] = False

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        given = list_params(params)
        if self.has_one_group and len(given) > 1 and isinstance(given[0], dict):
            given = [join_groups(type(self).__name__, given)]
        # the constructor of torch's class
        super().__init__(given, **values)  # type: ignore[arg-type, call-arg]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: a key is not a hyperparameter, or the optimizer takes no such parameters.
        """
        name = type(self).__name__
        if self.has_one_group and self.param_groups:
            raise UsageError(f"{name} takes one param group, of all parameters")
        group = check_group(self, param_group)
        super().add_param_group(_check_matrices(name, group) if self.takes_matrices_only else group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class.

        Raises:
            UsageError: a group lacks a hyperparameter, because it belongs to a different optimizer.
        """
        super().load_state_dict(check_form(type(self).__name__, state_dict))
        for p, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[name] = copy_like(value, p)
        for group in self.param_groups:
            if missing := self.defaults.keys() - group.keys() - set(TORCHS_EXECUTION):
                raise UsageError(
                    f"{type(self).__name__} has {', '.join(sorted(missing))}, which the state does "
                    "not have: it belongs to a different optimizer"
                )

    @torch.no_grad()
    def step_parameters(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update some parameters of a group, as `step` updates all that have a gradient."""
        kept = self.param_groups
        self.param_groups = [group | {"params": params}]
        try:
            inspect.unwrap(type(self).step)(self)
        finally:
            self.param_groups = kept

    def run_torch_step(self, *arguments: Any) -> Any:
        """Call torch's `step` without its wrapper: this class's own calls the hooks of a step."""
        parents = [c for c in type(self).__mro__ if f"{c.__module__}.".startswith("torch.optim.")]
        step: Callable[..., Any] = inspect.unwrap(vars(parents[0])["step"])
        lrs = [group["lr"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["lr"] = float(group["lr"])  # torch's L-BFGS would keep a tensor in its state
            with torch.no_grad():
                return step(self, *arguments)
        finally:
            for group, lr in zip(self.param_groups, lrs, strict=True):
                group["lr"] = lr

    @contextmanager
    def sparse_gradients(self) -> Iterator[None]:
        """Make dense gradients sparse for the time of a step."""
        params = [p for group in self.param_groups for p in group["params"]]
        dense = [(p, p.grad) for p in params if p.grad is not None and not p.grad.is_sparse]
        try:
            for p, g in dense:
                p.grad = g.to_sparse()
            yield
        finally:
            for p, g in dense:
                p.grad = g


class Childless:
    """Has no subclasses for code that looks for them; see `Declared.__subclasses__`.

    A base beside a class of torch whose name a class of ours has too.
    """

    @classmethod
    def __subclasses__(cls) -> list[type]:
        """None."""
        return []


def _check_matrices(owner: str, group: dict[str, Any]) -> dict[str, Any]:
    """A group with its parameters in a list.

    Raises:
        UsageError: one of them is not a real matrix.
    """
    group = with_names(group)
    for name, p in label_parameters(group):
        if p.is_complex():
            raise UsageError(f"{owner} does not support complex parameters, such as {name}")
        if not p.numel():
            raise UsageError(f"{owner} does not support empty matrices: parameter {name} is empty")
        if p.ndim != 2:
            raise UsageError(
                f"{owner} takes matrices only, but parameter {name} has shape "
                f"{tuple(p.shape)}: lit_optim.Muon(model) (optimizer=muon) leaves such parameters "
                "to AdamW; a model of matrices only, without biases, fits too"
            )
    return group
