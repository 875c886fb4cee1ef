"""Ranges of optimizer arguments that are narrower on the command line than in Python.

A constructor accepts the values that torch's accepts. On the command line an lr of 0 or a momentum
of 1.5 is almost certainly a mistake: nothing would be trained, or the weights would diverge.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from lit_optim.signatures import Parameter, Signature

#: The range of an argument of every optimizer of this package, or of one of them.
RANGES = {
    "lr": "> 0",
    "lr_1d": "> 0",
    "adamw_lr": "> 0",
    "eps": "> 0",
    "adamw_eps": "> 0",
    "momentum": "in [0, 1)",
    "NAG.momentum": "in (0, 1)",
    "dampening": "in [0, 1]",
    "RMSprop.alpha": "in [0, 1)",
    "ASGD.lambd": ">= 0",
    "ASGD.alpha": ">= 0",
    "ASGD.t0": ">= 0",
    "LBFGS.tolerance_grad": ">= 0",
    "LBFGS.tolerance_change": ">= 0",
}


def narrow_ranges(target: str, signature: Signature) -> Signature:
    """Apply `RANGES` to the signature of a target, if it is an optimizer of this package."""
    if not target.startswith("lit_optim."):
        return signature
    name = target.rpartition(".")[2]
    parameters = {}
    for key, parameter in signature.parameters.items():
        text = RANGES.get(f"{name}.{key}", RANGES.get(key))
        hint = parameter.annotation if text is None else _narrow(parameter.annotation, text)
        parameters[key] = Parameter(hint, parameter.required)
    return Signature(parameters, signature.open)


def _narrow(hint: Any, text: str) -> Any:
    """Replace the range in the annotation of a number, which may be null."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is float or (origin is Annotated and args[0] is float):
        return Annotated[float, text]
    if origin in (Union, types.UnionType):
        return Union[tuple(_narrow(option, text) for option in args)]  # noqa: UP007
    return hint
