"""Parameters, gradients and a loop that the tests of optimizers share."""

from __future__ import annotations

import inspect
from contextlib import contextmanager

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from lit_optim.config.places import groups, listed_choices
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS

SHAPES = [(), (7,), (4, 5), (3, 2, 3, 3)]
NAMES = sorted(listed_choices("optimizer"))


def class_of(name):
    return get_class(OmegaConf.load(groups()["optimizer"][name])._target_)


WALKS = [name for name in NAMES if issubclass(class_of(name), OptimizerBase)]


def made_by(name):
    """What makes one of plain params: the class, told roles where it needs them."""
    make = class_of(name)
    if "roles" not in getattr(make, "requirements", ()):
        return make

    def with_roles(params, **settings):
        given = list(params)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        return make([part for group in groups for part in _by_shape(group)], **settings)

    return with_roles


def _by_shape(group):
    """Matrices are hidden; in the order they come, as far as that is possible."""
    params = list(group["params"])
    for role, fits in (("vector", lambda p: p.ndim < 2), ("hidden", lambda p: p.ndim > 1)):
        members = [p for p in params if fits(p)]
        if members:
            yield group | {"params": members, "role": role}


def defaults_of(make):
    """The hyperparameters of an optimizer and their defaults, without params and common options."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    is_ours = isinstance(make, type) and issubclass(make, OptimizerBase)
    others = {*OPTIONS, *Matrixwise.fields} if is_ours else ()
    return {p.name: p.default for p in parameters if p.name not in others}


def parameters(dtype=torch.float64, seed=2):
    """Of order 1: in [-0.9, 0.9)."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.rand(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    values = [1.8 * value - 0.9 for value in values]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


def gradients(params, step):
    """The same for every optimizer; the second parameter wakes up late."""
    generator = torch.Generator().manual_seed(1000 + step)
    for index, p in enumerate(params):
        g = torch.randn(p.shape, dtype=torch.float64, generator=generator)
        p.grad = None if index == 1 and step < 5 else g.to(p.dtype)


def run(optimizer, params, first, last):
    for step in range(first, last):
        gradients(params, step)
        optimizer.step()


def difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@contextmanager
def default_dtype(dtype):
    """torch keeps numbers such as NAdam's mu_product in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def two_groups(params, name, settings):
    """The second has half the lr and a weight decay, where the optimizer has them."""
    hyper = defaults_of(class_of(name)) | settings
    second = {"weight_decay": 0.05} if "weight_decay" in hyper else {}
    if hyper["lr"] is not None and "one_lr" not in class_of(name).requirements:
        second["lr"] = hyper["lr"] / 2
    return [{"params": params[:2]}, {"params": params[2:], **second}]
