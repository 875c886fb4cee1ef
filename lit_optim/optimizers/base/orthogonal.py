"""The base of algorithms that move matrices by orthogonal ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.newton_schulz import orthogonalize_flops
from lit_optim.optimizers.base.products import prefers_bfloat16
from lit_optim.optimizers.base.types import Group
from lit_optim.sharding import Steps

#: The dtype of products of float32 matrices; auto: the faster on this machine.
ProductDtype = Literal["auto", "float32", "bfloat16"]


class Orthogonal(Matrixwise):
    """An optimizer whose direction is the orthogonalized momentum.

    A subclass declares `ns_coefficients`, `ns_steps` and `ns_dtype`. The first step writes what
    the dtype "auto" is into the param group, so that a resumed run goes on in the same.
    """

    def begin_step(self, group: Group) -> Iterator[Steps]:
        if group["ns_dtype"] == "auto":
            groups = (group, *self.param_groups)  # the group may be a copy
            # a process that has a part of the parameters may have none of this group
            p = next((p for own in groups for p in own["params"]), None)
            dtype = "auto" if p is None else _faster_dtype(p.device.type)
            for own in groups:
                if own.get("ns_dtype") == "auto":
                    own["ns_dtype"] = dtype
        return super().begin_step(group)

    def flops(self, m: int, n: int, group: Group) -> float:
        return orthogonalize_flops(m, n, group["ns_coefficients"], group["ns_steps"])


def _faster_dtype(device: str) -> str:
    return "bfloat16" if prefers_bfloat16(device) else "float32"
