"""States of algorithms that compute each coordinate by itself: how they are stored and saved."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.kernels import precision
from lit_optim.kernels.precision import LOW_BITS, SCALE, State
from lit_optim.optimizers.base import eight_bits
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.parameters import label_parameters
from lit_optim.optimizers.base.types import Group
from lit_optim.sharding import local_tensor
from lit_optim.sharding.saved import fit


class ElementwiseStates(OptimizerBase):
    """The part of `Elementwise` that makes, saves and loads states, at any precision.

    A subclass declares `states`.
    """

    #: The states of a parameter, by torch's names for them.
    states: ClassVar[dict[str, State]] = {}

    #: States that the rule does not use, at full precision.
    other_states: ClassVar[dict[str, State]] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: as `OptimizerBase`, or its 8-bit states would not fit the shards of one of
                its parameters.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["state_dtype"] == "int8":
            for label, p in label_parameters(group):
                eight_bits.check_blocks(p, label)

    def states_for(self, group: Group) -> dict[str, State]:
        """The states of a parameter with these hyperparameters."""
        return {
            name: state if state.initial_from is None else state.resolve_initial(group)
            for name, state in self.states.items()
            if state.when is None or group[state.when]
        }

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        tensors = {}
        for name, state in self.states_for(group).items():
            tensors[name] = precision.create_state(p, state, group["state_dtype"])
            if tensors[name].dtype in precision.EIGHT_BIT_DTYPES:
                codes = local_tensor(tensors[name])  # blocks are those of the shard
                tensors[name + SCALE] = precision.create_scales(codes, state.initial or 0.0)
        for name, state in self.other_states.items():
            tensors[name] = precision.create_state(p, state, "float32")
        if group["master"] == "split" and p.dtype == torch.bfloat16:
            tensors[LOW_BITS] = torch.zeros_like(p, dtype=torch.int16)
        return tensors

    def spread_states(self, p: Tensor, group: Group, state: dict[str, Any]) -> dict[str, Any]:
        coded = [name for name in state if name + SCALE in state]
        if not coded and LOW_BITS not in state:
            return state
        state = dict(state)
        if LOW_BITS in state:
            state[LOW_BITS] = eight_bits.as_bytes(p, state[LOW_BITS])
        for name in coded:
            if eight_bits.has_whole_blocks(p):
                packed = eight_bits.pack(p, state[name], state[name + SCALE])
                state[name], state[name + SCALE] = packed
            else:
                state[name] = eight_bits.decode_as(p, state[name], state.pop(name + SCALE))
        return state

    def load_tensors(
        self, p: Tensor, group: Group, saved: dict[str, Tensor], label: str
    ) -> dict[str, Tensor]:
        """Make the tensors kept for p from a saved state, which may have another precision."""
        tensors = self.new_state(p, group)
        if not saved:  # torch's SGD has no buffers at first
            return tensors
        for name in self.states_for(group):
            if name not in saved:
                self._reject_state(name)
            self._load_state(p, name, tensors, saved, f"{name} of parameter {label}")
        for name in self.other_states:
            if name not in saved:
                self._reject_state(name)
            self.copy_saved(tensors[name], saved[name], f"{name} of parameter {label}")
        low = saved.get(LOW_BITS) if LOW_BITS in tensors else None
        if low is not None and not eight_bits.copy_bytes(p, tensors[LOW_BITS], low):
            self.copy_saved(tensors[LOW_BITS], low, f"{LOW_BITS} of parameter {label}")
        return tensors

    def _load_state(
        self, p: Tensor, name: str, tensors: dict[str, Tensor], saved: dict[str, Tensor], what: str
    ) -> None:
        """Copy a saved state into the one of this name, stored as that is."""
        now, own_scale = tensors[name], tensors.get(name + SCALE)
        value, scale = saved[name], saved.get(name + SCALE)
        if scale is None:
            if value.shape != p.shape:
                self._reject_shape(what, value, p.shape)
            part = fit(value, p)
        else:
            if not eight_bits.fits(p, value, scale):
                self._reject_shape(what, value, p.shape)
            if own_scale is not None and eight_bits.load(p, now, own_scale, value, scale):
                return
            part = eight_bits.read(p, value, scale)
        now = local_tensor(now)
        part = torch.empty_like(now, dtype=precision.compute_dtype(p)).copy_(part)
        precision.encode(precision.flat_view(part), precision.flat_view(now), own_scale, None)
