"""Schedules that the user writes: as an expression, or as the dotted name of a function.

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from typing_extensions import Unpack

from lit_optim.schedules.expressions import Lambda, Text
from lit_optim.schedules.library import Counting, checked
from lit_optim.schedules.phases import Interval


@checked
def lambda_(expr: Text = "0.5*(1+cos(pi*progress))", **counting: Unpack[Counting]) -> Lambda:
    """The factor is what the formula gives for this update.

    torch's LambdaLR.
    """
    return Lambda(expr, **counting)


@checked
def multiplicative(expr: Text = "0.01**(1/total)", **counting: Unpack[Counting]) -> Lambda:
    """Each update's lr is the one before times what the formula gives.

    torch's MultiplicativeLR. The product so far is saved.
    """
    return Lambda(expr, product=True, **counting)


@checked
def LambdaLR(lr_lambda: Text = "lambda epoch: 0.999**epoch", interval: Interval = "step") -> Lambda:
    """The factor is what the function gives.

    torch's LambdaLR.
    """
    return Lambda(lr_lambda, "lr_lambda", interval=interval, ticks="start")


@checked
def MultiplicativeLR(
    lr_lambda: Text = "lambda epoch: 0.999", interval: Interval = "step"
) -> Lambda:
    """Each lr is the one before times what the function gives.

    torch's MultiplicativeLR.
    """
    return Lambda(lr_lambda, "lr_lambda", product=True, interval=interval, ticks="start")
