"""What `bench_step.py` measures: the shapes of real networks, our optimizers, others', limits."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, Literal

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn import Parameter, ParameterList
from torch.optim import Optimizer
from yaml import YAMLError  # type: ignore[import-untyped]

from lit_optim.config.places import listed_choices
from lit_optim.errors import UsageError, suggest
from lit_optim.hyperparameters import hints_of
from lit_optim.optimizers.base import State
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.types import Group, Scalars, Update, Value

Shape = tuple[int, ...]
Make = Callable[[list[Parameter]], Optimizer]


def gpt2_small() -> Iterator[Shape]:
    """124.4M parameters; the head is tied to the embedding."""
    yield from [(50257, 768), (1024, 768)]
    for _ in range(12):
        yield from [(2304, 768), (2304,), (768, 768), (768,)]
        yield from [(3072, 768), (3072,), (768, 3072), (768,), *[(768,)] * 4]
    yield from [(768,), (768,)]


def resnet50() -> Iterator[Shape]:
    """25.6M parameters: convolutions, each with its normalization, and the head."""

    def convolution(out: int, into: int, kernel: int) -> list[Shape]:
        return [(out, into, kernel, kernel), (out,), (out,)]

    yield from convolution(64, 3, 7)
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(width, into, 1)
            yield from convolution(width, width, 3)
            yield from convolution(4 * width, width, 1)
            if block == 0:  # the shortcut changes the width too
                yield from convolution(4 * width, into, 1)
            into = 4 * width
    yield from [(1000, 2048), (1000,)]


def many_small() -> Iterator[Shape]:
    """2,000 vectors of 64 to 4,096 elements."""
    sizes = random.Random(0)
    yield from ((sizes.randint(64, 4096),) for _ in range(2000))


SHAPES: dict[str, Callable[[], Iterable[Shape]]] = {
    "tiny-mlp": lambda: [(64, 32), (64,), (64, 64), (64,), (10, 64), (10,)],
    "many-small": many_small,
    "resnet50": resnet50,
    "one-big": lambda: [(50_000_000,)],
    "gpt2-small": gpt2_small,
}


def parameters(shape: str) -> list[Parameter]:
    """Parameters with gradients."""
    params = [Parameter(torch.randn(size)) for size in SHAPES[shape]()]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Args:
        label: how it is called in the tables.
        algorithm: our name for what it computes.
        kind: ours, a peer, or the limit of the ours before it.
        make: the optimizer of these parameters.
        compiled: by torch, which takes minutes.
    """

    label: str
    algorithm: str
    kind: Literal["ours", "peer", "limit"]
    make: Make
    compiled: bool = False


@dataclass(frozen=True)
class Peer:
    """Another implementation of an algorithm.

    Args:
        algorithm: our name for it.
        path: package:class.
        ways: the settings of each way to run it.
        compiled: see `Candidate`.
    """

    algorithm: str
    path: str
    ways: tuple[dict[str, Any], ...] = ({},)
    compiled: bool = False


LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
BOTH, ALL = (LOOP, FOREACH), (LOOP, FOREACH, FUSED)
HEAVY: dict[str, Any] = {"momentum": 0.9}
BASELINE = "torch AdamW fused"
PEERS = [
    Peer("adamw", "torch.optim:AdamW", ALL),
    Peer("adamw", "torch.optim:AdamW", (FOREACH,), compiled=True),
    Peer("adamw", "optimi:AdamW", BOTH),
    Peer("adamw", "heavyball:AdamW", compiled=True),
    Peer("adam", "torch.optim:Adam", ALL),
    Peer("adam", "optimi:Adam", BOTH),
    Peer("sgd", "torch.optim:SGD", ALL),
    Peer("momentum", "torch.optim:SGD", tuple(HEAVY | way for way in ALL)),
    Peer("momentum", "optimi:SGD", tuple(HEAVY | way for way in BOTH)),
    Peer("momentum", "heavyball:SGD", compiled=True),
    Peer("nag", "torch.optim:SGD", tuple(HEAVY | {"nesterov": True} | way for way in ALL)),
    Peer("lion", "optimi:Lion", BOTH),
    Peer("lion", "pytorch_optimizer:Lion", BOTH),
    Peer("lion", "pytorch_optimizer:Lion", compiled=True),
    Peer("lion", "lion_pytorch:Lion"),
    Peer("ademamix", "pytorch_optimizer:AdEMAMix", BOTH),
    Peer("ademamix", "pytorch_optimizer:AdEMAMix", compiled=True),
    Peer("ademamix", "heavyball:AdEMAMix", compiled=True),
    Peer("adadelta", "torch.optim:Adadelta", BOTH),
    Peer("adafactor", "torch.optim:Adafactor", BOTH),
    Peer("adafactor", "pytorch_optimizer:AdaFactor"),
    Peer("adafactor_hf", "transformers.optimization:Adafactor", ({"relative_step": False},)),
    Peer("adagrad", "torch.optim:Adagrad", ALL),
    Peer("adamax", "torch.optim:Adamax", BOTH),
    Peer("asgd", "torch.optim:ASGD", BOTH),
    Peer("nadam", "torch.optim:NAdam", BOTH),
    Peer("radam", "torch.optim:RAdam", BOTH),
    Peer("radam", "optimi:RAdam", BOTH),
    Peer("rmsprop", "torch.optim:RMSprop", BOTH),
    Peer("rprop", "torch.optim:Rprop", BOTH),
    Peer("schedule_free_adamw", "schedulefree:AdamWScheduleFree", BOTH),
    Peer("schedule_free_adamw", "pytorch_optimizer:ScheduleFreeAdamW", BOTH),
    Peer("schedule_free_adamw", "heavyball:SFAdamW", compiled=True),
    Peer("schedule_free_sgd", "schedulefree:SGDScheduleFree", BOTH),
    Peer("schedule_free_sgd", "pytorch_optimizer:ScheduleFreeSGD", BOTH),
    Peer("adan", "optimi:Adan", BOTH),
    Peer("adan", "pytorch_optimizer:Adan", BOTH),
    Peer("stable_adamw", "optimi:StableAdamW", BOTH),
    Peer("stable_adamw", "pytorch_optimizer:StableAdamW", BOTH),
    Peer("adopt", "pytorch_optimizer:ADOPT", BOTH),
    Peer("adopt", "heavyball:ADOPT", compiled=True),
    Peer("laprop", "pytorch_optimizer:LaProp", BOTH),
    Peer("laprop", "heavyball:LaProp", compiled=True),
    Peer("lamb", "pytorch_optimizer:Lamb", BOTH),
    Peer("lars", "pytorch_optimizer:LARS", BOTH),
    Peer("mars", "pytorch_optimizer:MARS", BOTH),
    Peer("signum", "pytorch_optimizer:SignSGD", BOTH),
    Peer("prodigy", "prodigyopt:Prodigy"),
    Peer("prodigy", "pytorch_optimizer:Prodigy", BOTH),
]


def peers(algorithms: set[str] | None, compiled: bool) -> tuple[list[Candidate], list[str]]:
    """The implementations that are installed, and the packages that are not.

    Args:
        algorithms: those to implement, or all.
        compiled: also what takes minutes to compile.
    """
    found, missing = [], []
    for peer in PEERS:
        package = peer.path.partition(":")[0]
        if (algorithms is not None and peer.algorithm not in algorithms) or (
            peer.compiled and not compiled
        ):
            continue
        if find_spec(package) is None:
            missing.append(package)
            continue
        for way in peer.ways:
            found.append(_candidate(peer, way))
    return found, sorted(set(missing))


def baseline() -> Candidate:
    """What ratios are to."""
    return _candidate(Peer("adamw", "torch.optim:AdamW"), FUSED)


def _candidate(peer: Peer, way: dict[str, Any]) -> Candidate:
    package, _, name = peer.path.partition(":")
    words = [package.partition(".")[0], name]
    if peer.compiled:
        words.append("compiled")
    elif way.get("fused"):
        words.append("fused")
    elif "foreach" in way:
        words.append("foreach" if way["foreach"] else "loop")
    if way.get("momentum"):
        words.insert(2, "Nesterov" if way.get("nesterov") else "momentum")
    make = partial(_theirs, peer.path, way, peer.compiled)
    return Candidate(" ".join(words), peer.algorithm, "peer", make, peer.compiled)


def _theirs(path: str, way: dict[str, Any], compiled: bool, params: list[Parameter]) -> Optimizer:
    if compiled and path.startswith("pytorch_optimizer:"):  # its own way of compiling
        create = resolve_name("pytorch_optimizer:create_optimizer")
        name = path.partition(":")[2].lower()
        optimizer: Optimizer = create(ParameterList(params), name, compile=True)
        return optimizer
    optimizer = resolve_name(path)(params, lr=1e-3, **way)
    if hasattr(optimizer, "consume_grad"):  # heavyball drops gradients; others need them again
        optimizer.consume_grad = False
    if hasattr(optimizer, "train"):  # schedule-free ones have modes
        optimizer.train()
    return optimizer


def ours(text: str, executors: list[str]) -> list[list[Candidate]]:
    """Our optimizers, each on all executors and with its limit.

    Args:
        text: such as "adamw lion,betas=[0.9,0.98]", or "all-elementwise".
        executors: native, torch.
    """
    known: dict[str, Any] = {
        name: get_class(OmegaConf.load(path)._target_)
        for name, path in listed_choices("optimizer").items()
    }
    known = {name: cls for name, cls in known.items() if issubclass(cls, OptimizerBase)}
    units = []
    for name, settings in _specs(text, [n for n in known if issubclass(known[n], Elementwise)]):
        if name not in known:
            near = suggest(name, known) or f"; allowed are {', '.join(known)}, all-elementwise"
            raise UsageError(f"--optimizers: there is no {name}{near}")
        taken = hints_of(known[name].__init__).keys() - {"params", "return"}
        for key in settings.keys() - taken:
            near = suggest(key, taken) or f"; it takes {', '.join(sorted(taken))}"
            raise UsageError(f"--optimizers: {name} has no {key}{near}")
        label = " ".join([name, *(f"{k}={v}" for k, v in settings.items() if k != "executor")])
        unit = []
        elementwise = issubclass(known[name], Elementwise)
        has_kernels = elementwise or getattr(known[name], "has_kernel", False)
        usual = executors if has_kernels else ["torch"]
        for executor in [settings["executor"]] if "executor" in settings else usual:
            make = partial(known[name], **(settings | {"executor": executor}))
            make([Parameter(torch.zeros(1))])  # settings that are out of range are told now
            unit.append(Candidate(f"{label} {executor}", name, "ours", make))
        if elementwise:
            unit.insert(1, Candidate(f"limit of {label}", name, "limit", partial(limit, make)))
        units.append(unit)
    return units


def _specs(text: str, elementwise: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and the settings after each; commas within brackets separate neither."""
    found: list[tuple[str, list[str]]] = []
    for word in re.split(r"[\s,]+(?![^\[]*\])", text.strip(" ,")):
        if "=" not in word:
            names = elementwise if word == "all-elementwise" else [word]
            found += [(name, []) for name in names]
        elif found:
            found[-1][1].append(word)
        else:
            raise UsageError(f"--optimizers: {word} is a setting of no optimizer; name it first")
    for name, settings in found:
        try:
            read = OmegaConf.to_container(OmegaConf.from_dotlist(settings))
        except (OmegaConfBaseException, YAMLError):
            raise UsageError(f"--optimizers: {' '.join(settings)} cannot be read") from None
        assert isinstance(read, dict)
        yield name, {str(key): value for key, value in read.items()}


class Limit(Elementwise):
    """The tensors of another rule, and next to no arithmetic; subclassed for each rule.

    One pass, as most rules need: one that asks for a sum over its tensor first cannot get there.
    """

    lr: float = 1e-6

    def scalars(self, group: Group, t: int) -> Scalars:  # noqa: D102
        return {"tiny": 1e-9}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:  # noqa: D102
        u, new = g, {}
        for name in self.states:
            old = getattr(s, name)
            u, new[name] = u + h.tiny * old, old + g
        return u, new


def limit(make: Callable[[list[Parameter]], Elementwise], params: list[Parameter]) -> Limit:
    """The limit of what `make` makes: its states, or as many bytes.

    What is stored in fewer bits than a float has is not decoded here, for that is arithmetic: as
    many bytes are read and written as floats.
    """
    like = make(params)
    group = like.param_groups[0]
    declared, coded = like.states_for(group), 0
    plain = {}
    for p in params:
        for name, tensor in like.new_state(p, group).items():
            if name in declared and tensor.dtype.itemsize >= 4:
                plain[name] = State()  # whatever hyperparameter the rule's depends on
            else:
                coded += tensor.nbytes
    if coded:  # as one parameter more, which has the same states as the others
        floats = Parameter(torch.ones(coded // (4 * (1 + len(plain)))))
        floats.grad = floats.detach()  # the same memory: it is read and written, and nothing else
        params = [*params, floats]
    # a class of its own, as kernels are kept by class
    made: type[Limit] = type("Limit", (Limit,), {"states": plain})
    return made(params, executor="native")
