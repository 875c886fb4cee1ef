"""What an optimizer is trained with, in one process and sharded: the rows of the matrix."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from importlib import import_module
from random import Random
from typing import Any

import numpy as np
import torch

from lit_optim.errors import UsageError
from lit_optim.param_groups import divide_parameters
from lit_optim.schedules import cosine
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from tests.sharding.layouts import LAYOUTS, Trained, local
from tests.sharding.nets import make_net

STEPS = 5
RULES = [
    {"name": "blocks.1.*", "lr_mult": 0.5},
    {"name": "*.up.weight", "weight_decay": 0.2},
    {"name": "late.*", "lr_mult": 2.0},
]
#: What the weights of two runs may differ by, in float64.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Case:
    """An optimizer and what it is trained with. All of it can be pickled.

    Args:
        target: the dotted name of its class.
        settings: arguments of the class.
        wrapper: the dotted name of a wrapper around it, and its arguments.
        net: the kind of the model, and its flags.
        base, rules: how its parameters are divided into groups; None: the model is passed.
        parts: the number of batches accumulated for an update.
        clip: the norm to which torch clips the gradients.
        scheduled: whether the lr, weight decay and momentum follow schedules.
    """

    target: str
    settings: dict[str, Any] = field(default_factory=dict)
    wrapper: tuple[str, dict[str, Any]] | None = None
    net: tuple[str, dict[str, bool]] = ("net", {})
    base: str | None = None
    rules: tuple[dict[str, Any], ...] = ()
    parts: int = 1
    clip: float | None = None
    scheduled: bool = False

    def make_optimizer(self, trained: Trained) -> Any:
        """The optimizer."""
        net, cls = trained.net, find(self.target)
        given: Any = net
        if self.base is not None:
            given = divide_parameters(net, self.base, self.rules)
        if not trained.zero:
            made = cls(given, **self.settings)
        else:
            from torch.distributed.optim import ZeroRedundancyOptimizer

            if given is net:
                has_roles = "roles" in getattr(cls, "requirements", ())
                given = divide_parameters(net) if has_roles else list(net.parameters())
            made = ZeroRedundancyOptimizer(given, cls, trained.group, **self.settings)
        if self.wrapper is None:
            return made
        name, arguments = self.wrapper
        return find(name)(made, **arguments)

    def schedule(self, optimizer: Any) -> ScheduledLR | None:
        """A schedule of every hyperparameter that has one in most runs."""
        if not self.scheduled:
            return None
        horizon, keys = Horizon(STEPS), optimizer.param_groups[0].keys()
        given = {
            key: [{"shape": "linear", "from": first, "to": last}]
            for key, first, last in (("weight_decay", 0.3, 0.1), ("momentum", 0.8, 0.95))
            if key in keys and not optimizer.param_groups[0].get("hyperball")
        }
        if "betas" in keys:
            given["betas.0"] = [{"shape": "linear", "from": 0.7, "to": 0.9}]
        moved = [
            one.attach(one.schedule and one.schedule.curve(horizon), optimizer)
            for one in parse_hyperparameter_schedules(given)
        ]
        return ScheduledLR(optimizer, cosine().curve(horizon), moved)


def find(target: str) -> Any:
    """What has this dotted name."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def scenarios(settings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the cases of an optimizer change, by name.

    Args:
        settings: arguments of its class to try.
    """
    made: dict[str, dict[str, Any]] = {
        "plain": {},
        "frozen": {"net": ("net", {"frozen": True})},
        "late": {"net": ("net", {"late": True})},
        "tied": {"net": ("net", {"tied": True})},
        "accumulate": {"parts": 2},
        "clip": {"clip": 0.5},
        "layer_decay": {"base": "layer_decay"},
        "rules": {"base": "no_decay", "rules": tuple(RULES)},
        "schedules": {"scheduled": True},
        "bfloat16 states": {"settings": {"state_dtype": "bfloat16"}},
        "int8 states": {"settings": {"state_dtype": "int8"}, "net": ("wide", {})},
        "ema": {"wrapper": ("lit_optim.Ema", {"decay": 0.5})},
        "lookahead": {"wrapper": ("lit_optim.Lookahead", {"k": 2})},
        "sam": {"wrapper": ("lit_optim.Sam", {"rho": 0.1})},
        "adaptive sam": {"wrapper": ("lit_optim.Sam", {"adaptive": True, "rho": 0.5})},
    }
    options: tuple[dict[str, Any], ...] = (
        {"maximize": True},
        {"decay": "independent"},
        {"decay": "corrected"},
        {"cautious_weight_decay": True},
        {"cautious": True},
        {"clip_update": 0.3},
        {"trust_ratio": True},
        {"hyperball": True, "weight_decay": 0.0},
        {"cautious": True, "clip_update": 0.5, "trust_ratio": True, "decay": "independent"},
        {"executor": "torch"},
        {"executor": "torch", "cautious": True, "trust_ratio": True},
    )
    for option in options:
        made[" ".join(f"{k}={v}" for k, v in option.items())] = {"settings": option}
    for k, given in enumerate(settings):
        if given:
            made[f"settings {k}"] = {"settings": given}
    return made | mixtures(made)


def mixtures(single: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Several scenarios at a time, which a pseudo-random generator draws."""
    random, made = Random(len(single)), {}
    of_others = {"settings", "wrapper"}
    others = [
        name for name, changes in single.items() if changes and not changes.keys() & of_others
    ]
    wrappers = [name for name in single if "wrapper" in single[name]]
    settings = [name for name in single if name.startswith("settings")] or ["plain"]
    for k in range(6):
        names = [*random.sample(others, 3), random.choice(wrappers), random.choice(settings)]
        flags = {flag: True for name in names for flag in single[name].get("net", ("", {}))[1]}
        mixture = {key: value for name in names for key, value in single[name].items()}
        made[f"mixture {k}: {', '.join(names)}"] = mixture | {"net": ("net", flags)}
    return made


def make_case(target: str, changes: dict[str, Any]) -> Case:
    """The case of a scenario."""
    case = replace(Case(target), **changes)
    if case.net[0] == "net" and getattr(find(target), "takes_matrices_only", False):
        return replace(case, net=("net", {**case.net[1], "matrices": True}))
    return case


def start(case: Case) -> Any:
    """All weights before training, one after the other."""
    kind, flags = case.net
    return np.concatenate([p.detach().ravel() for p in make_net(kind, **flags).parameters()])


def train(case: Case, layout: str | None = None) -> tuple[str, Any]:
    """Train in this process, alone or as one of those of a layout.

    Returns:
        "trained" and all weights, whole, one after the other, followed by the averaged ones where
        the optimizer has some; "refused" and the line; "failed" and the traceback; or "outside"
        where the layout has fewer processes.
    """
    kind, flags = case.net
    net = make_net(kind, **flags)
    trained = Trained(net) if layout is None else LAYOUTS[layout].spread(net)
    if trained is None:
        return "outside", None
    before = [local(p).clone() for p in trained.net.parameters()]
    try:
        optimizer = case.make_optimizer(trained)
        scheduler = case.schedule(optimizer)
        make_step(case, trained, optimizer, 0)
    except UsageError as refused:
        now = [local(p) for p in trained.net.parameters()]
        unchanged = all(map(torch.equal, now, before))
        is_right = unchanged and "\n" not in str(refused)
        return "refused" if is_right else "refused badly", str(refused)
    except Exception:
        return "failed", traceback.format_exc()
    try:
        for step in range(1, STEPS):
            if scheduler is not None:
                scheduler.step()
            make_step(case, trained, optimizer, step)
        found = trained.weights()
        if hasattr(optimizer, "eval"):
            optimizer.eval()
            found += trained.weights()
            optimizer.train()
            found += trained.weights()
    except Exception:
        return "failed", traceback.format_exc()
    return "trained", np.concatenate([x.numpy().ravel() for x in found])


def make_step(case: Case, trained: Trained, optimizer: Any, step: int) -> None:
    """One update."""

    def closure() -> Any:
        optimizer.zero_grad()
        parts = [trained.backward(step, part, 1 / case.parts) for part in range(case.parts)]
        if case.clip is not None:
            trained.clip(case.clip)
        return torch.stack(parts).sum()

    if "closure" in getattr(optimizer, "requirements", ()):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def compare(found: Any, expected: Any) -> float:
    """The largest difference between two results of `train`."""
    return float(np.abs(found - expected).max())
