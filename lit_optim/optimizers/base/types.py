"""Types and ranges of hyperparameters, and what a rule is given and returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, SupportsFloat

from torch import Tensor, nn

#: A module, parameters, or param groups.
Params = nn.Module | Iterable[Any]
if not TYPE_CHECKING:
    Real = float
    Pair = tuple[float, float]
    Triple = tuple[float, float, float]
else:  # an lr may be a tensor or NumPy's number, and numbers in any sequence of that length
    Real = SupportsFloat
    Pair = Sequence[float]
    Triple = Sequence[float]
Positive = Annotated[Real, "> 0"]
NonNegative = Annotated[Real, ">= 0"]
NonPositive = Annotated[float, "<= 0"]
Count = Annotated[int, "> 0"]
#: A factor by which something grows.
AboveOne = Annotated[float, "> 1"]
#: The number of updates from one event to the next, or the length of a side.
AtLeastOne = Annotated[int, ">= 1"]
#: A number of updates, which may be none.
Updates = Annotated[int, ">= 0"]
#: The number of iterations within an update.
Iterations = Annotated[int, "in [1, 99]"]
TwoPositive = Annotated[Pair, "> 0"]
TwoNonNegative = Annotated[Pair, ">= 0"]
#: A share of a whole.
Share = Annotated[float, "in [0, 1]"]
#: The decay rate of an exponential moving average.
Beta = Annotated[float, "in [0, 1)"]
#: The same without 0.
OpenBeta = Annotated[float, "in (0, 1)"]
#: Decay rates of two averages; rules see them as h.b1 and h.b2.
Betas = Annotated[Pair, "in [0, 1)"]
#: The same without 0.
OpenBetas = Annotated[Pair, "in (0, 1)"]
#: Decay rates of three averages; rules see them as h.b1, h.b2 and h.b3.
ThreeBetas = Annotated[Triple, "in [0, 1)"]

#: The values of a param group: hyperparameters, options, and numbers kept for a parameter.
Group = dict[str, Any]
#: Numbers and switches by name.
Scalars = dict[str, Any]
#: A tensor, or, while a kernel is made of the rule, a symbol in its place.
Value = Any
#: What a rule returns: the direction u, and the new states by name.
Update = tuple[Value, dict[str, Value]]
#: The same of a rule of whole tensors.
TensorUpdate = tuple[Tensor, dict[str, Tensor]]
