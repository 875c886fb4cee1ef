"""Converts values so that torch loads them without running code."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy
import torch
from torch import Tensor

#: The types that `torch.load(weights_only=True)` loads unchanged.
PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype,
         torch.device, torch.Size)  # fmt: skip
#: Those of which every value is loaded unchanged.
UNCHANGED = frozenset(PLAIN) - {bytes}
#: The types to which instances of subclasses are converted.
BASIC: tuple[Callable[[Any], Any], ...] = (int, float, complex, str, bytes)


class NotPlain(ValueError):
    """A value that torch would not load.

    Args:
        path: the keys that lead to it.
        kind: its type.
    """

    def __init__(self, path: tuple[Any, ...], kind: type) -> None:
        super().__init__(f"{join_path(path)} is a {kind.__module__}.{kind.__qualname__}")
        self.path, self.kind = path, kind

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.kind), vars(self)


def join_path(path: tuple[Any, ...]) -> str:
    """Format a path of keys: `callbacks.Mine.history[3]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def to_plain_values(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Convert numpy's numbers and arrays, paths, enums and mappings to plain values.

    Containers of other types become dict, list, tuple or set. Tensors, and containers in which
    nothing changes, stay the same object.

    Args:
        value: any value.
        path: the keys that lead to it, for the error.

    Raises:
        NotPlain: torch would not load a value.
    """
    kind = type(value)
    if kind is bytes and not value:
        return bytearray()  # torch cannot load empty bytes
    if kind in PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, Enum):
        return to_plain_values(value.value, path)
    if isinstance(value, numpy.generic | numpy.ndarray):
        return to_plain_values(value.tolist(), path)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return _plain_mapping(value, path)
    for basic in BASIC:  # an instance of a subclass of str, say
        if isinstance(value, basic):  # type: ignore[arg-type]
            return to_plain_values(basic(value))
    if isinstance(value, Set):
        return {to_plain_values(item, (*path, "{}")) for item in value}
    if kind in (list, tuple) and UNCHANGED.issuperset(map(type, value)):
        return value  # such as the thousand numbers of a random state
    if isinstance(value, Sequence):
        items = [to_plain_values(item, (*path, k)) for k, item in enumerate(value)]
        if kind in (list, tuple) and all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return tuple(items) if isinstance(value, tuple) else items
    if not _is_readable(value):
        raise NotPlain(path, kind)
    return value


def _plain_mapping(value: Mapping[Any, Any], path: tuple[Any, ...]) -> Mapping[Any, Any]:
    pairs = [
        (to_plain_values(key, (*path, key)), to_plain_values(item, (*path, key)))
        for key, item in value.items()
    ]
    if type(value) in (dict, OrderedDict) and all(
        key is old and item is value[old] for (key, item), old in zip(pairs, value, strict=True)
    ):
        return value  # a state_dict has an attribute beside its items
    return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)


def _is_readable(value: Any) -> bool:
    """Whether torch loads a value, whose class the user may have declared safe."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # any error in pickling a user's object
        return False
    return True


def keep_plain(
    hparams: Mapping[str, Any], path: tuple[Any, ...] = ()
) -> tuple[dict[str, Any], list[NotPlain]]:
    """Return the plain values of a mapping, and an error for each of the other values.

    Args:
        hparams: such as a module's hyperparameters.
        path: the keys that lead to it.
    """
    kept: dict[str, Any] = {}
    left_out = []
    for key, value in hparams.items():
        try:
            kept[str(key)] = to_plain_values(value, (*path, key))
        except NotPlain as error:
            left_out.append(error)
        except Exception:  # reading it fails, as for a missing value of a configuration
            left_out.append(NotPlain((*path, key), type(value)))
    return kept, left_out


def first_not_plain(parts: Iterator[tuple[tuple[Any, ...], Callable[[], Any]]]) -> NotPlain | None:
    """Return the error for the first part that torch would not load.

    Args:
        parts: the place of each in a checkpoint, and a function that returns it. A function that
            raises is skipped: its part is not ready yet.
    """
    for path, get in parts:
        try:
            to_plain_values(get(), path)
        except NotPlain as error:
            return error
        except Exception:
            continue
    return None
