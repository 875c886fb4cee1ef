"""AdamW as TensorFlow has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.groups import with_names
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.options import Options


class AdamWeightDecay(AdamW):
    """TensorFlow's AdamW: the names of parameters say which of them are decayed.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101; in the form
    of transformers' AdamWeightDecay for TensorFlow.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        p = p - lr weight_decay p
        p = p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    Differs from AdamW: eps stands outside of the bias correction, so it counts 1 / sqrt(1 - b2^t)
    times more. Where patterns part a group, what is not decayed becomes `<name>.no_decay`; of a
    group without a name, or called all, the parts are `decay` and `no_decay`. Of a group that sets
    weight_decay 0 only what is included is decayed, as `<name>.decay`.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape; with amsgrad also
    `max_exp_avg_sq`, the largest v so far, which then stands in the denominator.

    Args:
        params: (name, parameter) pairs, or param groups, which may have names as `param_names`;
            without patterns, parameters without names too.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages; TensorFlow calls it
            weight_decay_rate.
        amsgrad: never let a step grow because v shrank.
        include_in_weight_decay: regular expressions; a parameter is decayed if one of them is found
            in its name, whatever else is said.
        exclude_from_weight_decay: the same for parameters that are not decayed. What neither fits
            is decayed.

    Raises:
        ValueError: patterns without names, or one that is no regular expression.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-7,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        amsgrad: bool = False,
        include_in_weight_decay: Sequence[str] | None = None,
        exclude_from_weight_decay: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._include = _compiled("include_in_weight_decay", include_in_weight_decay)
        self._exclude = _compiled("exclude_from_weight_decay", exclude_from_weight_decay)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in two where the patterns part it."""
        for part in self._parts(with_names(param_group)):
            super().add_param_group(part)

    def __getstate__(self) -> dict[str, Any]:
        patterns = {"_include": self._include, "_exclude": self._exclude}
        return super().__getstate__() | patterns

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        h = super().scalars(group, t, carried)
        return h | {"eps": h["eps"] / h["sqrt_debias2"]}  # AdamW's rule multiplies it again

    def torchs(self, group: dict[str, Any], batch: Batch, t: int) -> bool:  # noqa: D102
        return False  # torch has eps elsewhere

    def _parts(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """The group as one that is decayed and one that is not, without empty ones."""
        if not (self._include or self._exclude):
            return [group]
        params, names = group["params"], group.get("param_names", [])
        if len(names) != len(params):
            raise UsageError(
                "include_in_weight_decay and exclude_from_weight_decay need names of parameters: "
                "give (name, parameter) pairs, or param_names in each group"
            )
        given = group.get("weight_decay", self.defaults["weight_decay"])
        exempt = group.get("weight_decay") == 0
        marks = [self._decays(name, unless_said=not exempt) for name in names]
        if not any(marks) if exempt else all(marks):
            return [group]
        name = group.get("name", "all")
        first, second = ("decay", "no_decay") if name == "all" else (name, f"{name}.no_decay")
        if exempt:
            first, second, given = f"{name}.decay", name, self.defaults["weight_decay"]
        parts = [
            group | {"name": first, "weight_decay": given, **_only(group, marks, True)},
            group | {"name": second, "weight_decay": 0.0, **_only(group, marks, False)},
        ]
        return [part for part in parts if part["params"]]

    def _decays(self, name: str, unless_said: bool) -> bool:
        if any(pattern.search(name) for pattern in self._include):
            return True
        return unless_said and not any(pattern.search(name) for pattern in self._exclude)


def _only(group: dict[str, Any], marks: list[bool], mark: bool) -> dict[str, Any]:
    which = [index for index, marked in enumerate(marks) if marked == mark]
    return {key: [group[key][i] for i in which] for key in ("params", "param_names")}


def _compiled(key: str, patterns: Sequence[str] | None) -> list[re.Pattern[str]]:
    check(AdamWeightDecay.__init__, {key: patterns})
    compiled = []
    for pattern in patterns or ():
        try:
            compiled.append(re.compile(pattern))
        except (re.error, OverflowError) as error:
            raise UsageError(f"{key}: {pattern!r} is no regular expression: {error}") from None
    return compiled
