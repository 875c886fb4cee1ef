"""The states of a wrapper beside those of the optimizer that it wraps."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

from torch import Tensor


class OwnState(dict[str, Any]):
    """The wrapper's own state of a parameter, which keeps what is written into it."""

    keep: Callable[[Mapping[str, Any]], None]

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.keep({name: value})


class StateOfParameter(ChainMap[str, Any]):
    """The state of a parameter; what is written is where it was, as Lightning moves to a device."""

    def __setitem__(self, name: str, value: Any) -> None:
        self.maps[-1 if name in self.maps[-1] else 0][name] = value


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
        own = OwnState(self.wrapper.own_state(p))
        own.keep = partial(self.wrapper.set_own_state, p)
        return StateOfParameter(self.wrapper.base.state[p], own)

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
