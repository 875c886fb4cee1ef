"""The states of a wrapper beside those of the optimizer that it wraps."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor


class WrapperStates(MutableMapping[Tensor, Any]):
    """The states of an optimizer by parameter, each with the wrapper's own beside it.

    torch.distributed.checkpoint looks here for what there is to load. What is written into the
    state of a parameter goes to the optimizer, but the wrapper's own values go to the wrapper.

    Args:
        wrapper: has `base`, `own_state` and `set_own_state`.
    """

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    def __getitem__(self, p: Tensor) -> ChainMap[str, Any]:
        return ChainMap(self.wrapper.base.state[p], self.wrapper.own_state(p))

    def __setitem__(self, p: Tensor, state: Mapping[str, Any]) -> None:
        own = self.wrapper.own_state(p).keys()
        self.wrapper.base.state[p] = {k: v for k, v in state.items() if k not in own}
        self.wrapper.set_own_state(p, {k: v for k, v in state.items() if k in own})

    def __delitem__(self, p: Tensor) -> None:
        del self.wrapper.base.state[p]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.wrapper.base.state)

    def __len__(self) -> int:
        return len(self.wrapper.base.state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WrapperStates) and other.wrapper is self.wrapper

    __hash__ = None  # type: ignore[assignment]
