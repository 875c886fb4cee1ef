"""The modules of a model under the names that its author gave them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from lit_optim.errors import UsageError

#: Layers that normalize; their scale and shift are never decayed.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
#: Containers whose members are one stack, from the input on.
STACKS = (nn.ModuleList, nn.Sequential)
#: Modules around the model that is meant, by class name, and the attribute that holds it.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
    "_FabricModule": "_forward_module",
}
FLATTENED = "_flat_param"


@dataclass(eq=False)
class Node:
    """A module, its wrappers taken off.

    Args:
        name: its dotted name, without those of wrappers.
        module: never a wrapper.
        entries: the parameters that are its own.
        children: its submodules that have parameters.
        counts: whether it is a part of the network that is trained; see `read_tree`.
    """

    name: str
    module: nn.Module
    entries: list[Entry] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    counts: bool = True

    @property
    def kind(self) -> type[nn.Module]:
        """Its class, without parametrizations."""
        return type_before_parametrizations(self.module)


class Entry(NamedTuple):
    """A parameter under one of its names.

    Args:
        name: as its author wrote it.
        raw_name: as `named_parameters` has it.
        tensor: the attribute of its layer that it makes, such as `weight`.
        part: which part of that, where a parametrization makes it of several; else empty.
        path: the modules from the root to its layer.
        parameter: itself.
    """

    name: str
    raw_name: str
    tensor: str
    part: str
    path: tuple[Node, ...]
    parameter: nn.Parameter

    @property
    def node(self) -> Node:
        """Its layer."""
        return self.path[-1]


@dataclass(eq=False)
class Tree:
    """A model.

    Args:
        root: the model itself.
        entries: every name of every parameter; the first names in the order of `parameters()`.
        is_flattened: FSDP has flattened the parameters.
    """

    root: Node
    entries: list[Entry]
    is_flattened: bool


def read_tree(module: nn.Module) -> Tree:
    """Read the modules that have parameters, and decide which of them count.

    What counts is the network that is trained. A module whose parameters are all frozen, or that
    is in eval mode while the model is in training mode, stands beside that network: a teacher, a
    moving copy, a perceptual loss, a metric. It has no layer and no head of the trained network,
    wherever it is registered. The exception is a frozen module with a trained one behind it in the
    same Sequential or ModuleList: it is a lower block of one stack, as in fine-tuning, and keeps
    its place. What does not count still has a role and a depth, for the case that it is unfrozen;
    see `describe_parameters`.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    state = _State()
    root = state.read(module, "", "", ())
    lazy = next((entry.node for entry in state.entries if is_lazy(entry.parameter)), None)
    if lazy is not None:
        raise UsageError(
            f"the layer {lazy.name or 'itself'} ({type(lazy.module).__name__}) has no shape before "
            "its first batch: run one through the model before its parameters are put into groups "
            "(a LightningModule may set example_input_array)"
        )
    place = {p: i for i, p in enumerate(module.parameters())}
    last = len(place)
    entries = sorted(state.entries, key=lambda entry: place.get(entry.parameter, last))
    _decide_what_counts(root)
    return Tree(root, entries, state.is_flattened)


class _State:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_flattened = False

    def read(self, module: nn.Module, name: str, raw: str, above: tuple[Node, ...]) -> Node:
        """The node of a module and of all below it."""
        module, raw = self._unwrap(module, raw)
        node = Node(name.removesuffix("."), module)
        path = (*above, node)
        tensors: dict[str, nn.Parameter | None] = module._parameters
        for tensor, p in tensors.items():
            if p is not None:
                self.is_flattened |= tensor == FLATTENED
                self._add(node, Entry(name + tensor, raw + tensor, tensor, "", path, p))
        children: dict[str, nn.Module | None] = module._modules
        for attribute, child in children.items():
            if child is None or any(child is one.module for one in path):
                continue
            if attribute == "parametrizations" and is_parametrized(module):
                for entry in _parametrized(child, name, f"{raw}{attribute}.", path):
                    self._add(node, entry)
                continue
            below = self.read(child, f"{name}{attribute}.", f"{raw}{attribute}.", path)
            if below.entries or below.children:
                node.children.append(below)
        return node

    def _add(self, node: Node, entry: Entry) -> None:
        node.entries.append(entry)
        self.entries.append(entry)

    def _unwrap(self, module: nn.Module, raw: str) -> tuple[nn.Module, str]:
        while True:
            kinds = [cls.__name__ for cls in type(module).__mro__]
            attribute = next((WRAPPERS[kind] for kind in kinds if kind in WRAPPERS), None)
            inner = module._modules.get(attribute) if attribute else None
            if inner is None:
                return module, raw
            self.is_flattened |= "FullyShardedDataParallel" in kinds
            module, raw = inner, f"{raw}{attribute}."


def _parametrized(lists: nn.Module, name: str, raw: str, path: tuple[Node, ...]) -> Iterator[Entry]:
    """The parameters behind the parametrized tensors of a layer."""
    for tensor, made_of in lists.named_children():
        for below, p in made_of.named_parameters(remove_duplicate=False):
            own = tensor if below == "original" else f"{tensor}.{below}"
            part = "" if below == "original" else below
            yield Entry(name + own, f"{raw}{tensor}.{below}", tensor, part, path, p)


def _decide_what_counts(root: Node) -> None:
    """Set `counts` of all nodes, as `read_tree` says."""
    for by_mode in (True, False) if root.module.training else (False,):
        trained = _find_trained(root, by_mode)
        # where only what is in eval mode could be a network, that mode says nothing: pretrained
        # models often come in it
        if any(isinstance(node.module, nn.Linear | _ConvNd) for node in trained):
            break
    if root in trained:  # else nothing is trained, and all count
        _count(root, trained)


def _find_trained(root: Node, by_mode: bool) -> set[Node]:
    """The nodes with something trained in or below them."""
    found: set[Node] = set()

    def look(node: Node) -> bool:
        resting = by_mode and not isinstance(node.module, NORMS) and _is_resting(node)
        below = [look(child) for child in node.children]
        own = any(entry.parameter.requires_grad for entry in node.entries)
        if (own or any(below)) and not resting:
            found.add(node)
        return node in found

    look(root)
    return found


def _is_resting(node: Node) -> bool:
    return not any(module.training for module in node.module.modules())


def _count(node: Node, trained: set[Node]) -> None:
    is_stack = isinstance(node.module, STACKS)
    for i, child in enumerate(node.children):
        if child in trained:
            _count(child, trained)
        elif not (is_stack and any(later in trained for later in node.children[i + 1 :])):
            _leave_out(child)


def _leave_out(node: Node) -> None:
    node.counts = False
    for child in node.children:
        _leave_out(child)
