"""The base of algorithms that move matrices by orthogonal ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

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
            for own in (group, *self.param_groups):  # the group may be a copy
                if own.get("ns_dtype") == "auto" and own["params"]:
                    own["ns_dtype"] = _choose_dtype(own)
        return super().begin_step(group)

    def flops(self, m: int, n: int, group: Group) -> float:
        return orthogonalize_flops(m, n, group["ns_coefficients"], group["ns_steps"])


def _choose_dtype(group: dict[str, Any]) -> str:
    return "bfloat16" if prefers_bfloat16(group["params"][0].device.type) else "float32"
