"""A device like an Apple GPU on the CPU: `device.type` is "mps", and float64 does not exist there.

Its tensors are of the CPU, and say otherwise. What a program may not do there is an error here too:
make or convert to float64, and compute with tensors of two devices.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

MPS = torch.device("mps", 0)
CPU = torch.device("cpu")
WIDE = (torch.float64, torch.complex128)
#: Functions whose tensors may be of two devices, and those that only tell something.
COPIES = (
    "copy_",
    "_has_compatible_shallow_copy_type",
    "_foreach_copy_",
    "to",
    "__set__",
    "__get__",
    "__setitem__",
    "set_",
    "type_as",
)
#: Functions that are told a device, and make no tensor.
NAMING = ("device", "_parse_to")
#: Functions that make a tensor of what they are given.
MAKERS = ("tensor", "as_tensor", "asarray", "to")


class OnMps(Tensor):
    """A tensor of the device."""

    device = property(lambda self: MPS)
    is_mps = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def grad(self):
        grad = Tensor.grad.__get__(self)
        if grad is not None and not isinstance(grad, OnMps):  # as autograd has made it
            grad = grad.as_subclass(OnMps)
            Tensor.grad.__set__(self, grad)
        return grad

    @grad.setter
    def grad(self, value):
        Tensor.grad.__set__(self, value)

    @grad.deleter
    def grad(self):
        Tensor.grad.__set__(self, None)

    def __reduce_ex__(self, protocol):  # as a checkpoint has it
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        leaves = tree_flatten((args, kwargs))[0]
        here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnMps)]
        if any(leaf.dim() for leaf in here) and name not in COPIES:
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, mps and cpu"
            )
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **kwargs)
        is_here = name in ("cpu", "numpy", "as_subclass")
        is_here |= name == "to" and CPU in map(_device, [*args[1:], *kwargs.values()])
        is_here |= name == "copy_" and not isinstance(args[0], OnMps)
        if is_here:
            return made.as_subclass(Tensor) if isinstance(made, OnMps) else made
        return tree_map_only(Tensor, put, made)


def put(tensor, name="float64"):
    """A tensor of the CPU, or the same one, on the device."""
    if Tensor.device.__get__(tensor) != CPU:  # without values, as of the meta device
        return tensor.as_subclass(Tensor) if isinstance(tensor, OnMps) else tensor
    if tensor.dtype in WIDE:
        raise TypeError(f"{name}: the MPS framework doesn't support float64")
    return tensor if isinstance(tensor, OnMps) else tensor.as_subclass(OnMps)


def _device(value):
    if isinstance(value, Tensor):
        return value.device
    if isinstance(value, torch.device) or (isinstance(value, str) and value[:3] in ("cpu", "mps")):
        return torch.device(value)
    return None


def is_mps(value):
    device = None if isinstance(value, Tensor) else _device(value)
    return device is not None and device.type == "mps"


class Mps(TorchFunctionMode):
    """Within it the device can be named."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        others = args[1:] if name in MAKERS else args
        is_there = any(map(is_mps, [*others, *kwargs.values()]))
        is_there |= name == "to" and any(isinstance(one, OnMps) for one in args[1:])
        if name == "to" and isinstance(args[0], OnMps) and is_there:
            with torch._C.DisableTorchFunctionSubclass():
                words = [args[0], *(CPU if is_mps(word) else word for word in args[1:])]
                keys = {key: CPU if is_mps(word) else word for key, word in kwargs.items()}
                return put(func(*words, **keys))
        if not is_there or name in NAMING:
            return func(*args, **kwargs)
        args = tuple(_on_cpu(word) for word in args)
        kwargs = {key: _on_cpu(word) for key, word in kwargs.items()}
        made = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda one: put(one.detach(), name), made)


def _on_cpu(value):
    if is_mps(value):
        return CPU
    return value.as_subclass(Tensor) if isinstance(value, OnMps) else value


@contextmanager
def mps():
    """Have the device, to which modules are moved too."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Mps():
            yield MPS
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
