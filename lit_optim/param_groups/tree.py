"""Reads the modules of a model under the names in its author's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from lit_optim.errors import UsageError, describe_value
from lit_optim.param_groups.orientation import find_transposed

#: Normalization layers; their scale and shift are never decayed.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
#: Containers whose members form a stack, starting at the input.
STACKS = (nn.ModuleList, nn.Sequential)
#: Wrappers of modules, by class name, and the attribute with the wrapped module.
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
    """A module without its wrappers.

    Args:
        name: its dotted name, without those of wrappers.
        module: the module, never a wrapper.
        entries: its own parameters.
        children: its submodules that have parameters.
        in_trained_network: whether it is a part of the trained network; see `read_tree`.
    """

    name: str
    module: nn.Module
    entries: list[Entry] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    in_trained_network: bool = True

    @property
    def layer_class(self) -> type[nn.Module]:
        """Its class, without parametrizations."""
        return type_before_parametrizations(self.module)


class Entry(NamedTuple):
    """A parameter under one of its names.

    Args:
        name: its name in the author's code.
        raw_name: its name in `named_parameters`.
        tensor: the attribute of its layer that it is or parametrizes, such as `weight`.
        part: the part of the tensor, if a parametrization has several parameters; else empty.
        path: the modules from the root to its layer.
        parameter: the parameter.
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
        root: the model.
        entries: every name of every parameter; first names are in the order of `parameters()`.
        is_flattened: whether FSDP has flattened the parameters.
        transposed: the layers whose weight is stored as [in, out, ...].
    """

    root: Node
    entries: list[Entry]
    is_flattened: bool
    transposed: set[nn.Module]

    def is_linear(self, layer: nn.Module) -> bool:
        """Whether a layer multiplies its input by a matrix."""
        is_convolution = isinstance(layer, _ConvNd)
        return isinstance(layer, nn.Linear) or (layer in self.transposed and not is_convolution)


def check_module(module: object) -> None:
    """Check that what is divided into groups is a module.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(
            "param groups are made of a model, as in param_groups(model), got "
            f"{describe_value(module)}"
        )


def read_tree(module: nn.Module) -> Tree:
    """Read the modules that have parameters, and find the trained network among them.

    A module whose parameters are all frozen, or that is in eval mode while the model is in training
    mode, is not part of the trained network: it is a teacher, a moving average, a perceptual loss
    or a metric. It has no layer or head of the trained network, wherever it is registered. The
    exception is a frozen module with a trained one after it in the same Sequential or ModuleList:
    it is a lower block of one stack, as in fine-tuning, and keeps its position. Modules outside of
    the trained network still have a role and a depth in case they are unfrozen; see
    `describe_parameters`.

    Raises:
        UsageError: it is no module, or a layer is lazy and has no shape yet.
    """
    check_module(module)
    reader = _TreeReader()
    root = reader.read(module, "", "", ())
    lazy = next((entry.node for entry in reader.entries if is_lazy(entry.parameter)), None)
    if lazy is not None:
        raise UsageError(
            f"the layer {lazy.name or 'itself'} ({type(lazy.module).__name__}) has no shape before "
            "its first batch: run one through the model before its parameters are put into groups "
            "(a LightningModule may set example_input_array)"
        )
    positions = {p: i for i, p in enumerate(module.parameters())}
    last = len(positions)
    entries = sorted(reader.entries, key=lambda entry: positions.get(entry.parameter, last))
    transposed = find_transposed(dict.fromkeys(entry.node.module for entry in entries))
    tree = Tree(root, entries, reader.is_flattened, transposed)
    _find_trained_network(tree)
    return tree


class _TreeReader:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_flattened = False

    def read(self, module: nn.Module, name: str, raw: str, above: tuple[Node, ...]) -> Node:
        """Return the node of a module, with all nodes below it."""
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
            if child is None or any(child is node.module for node in path):
                continue
            if attribute == "parametrizations" and is_parametrized(module):
                for entry in _read_parametrized(child, name, f"{raw}{attribute}.", path):
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


def _read_parametrized(
    lists: nn.Module, name: str, raw: str, path: tuple[Node, ...]
) -> Iterator[Entry]:
    """Yield the parameters of the parametrized tensors of a layer."""
    for tensor, parametrizations in lists.named_children():
        for below, p in parametrizations.named_parameters(remove_duplicate=False):
            own = tensor if below == "original" else f"{tensor}.{below}"
            part = "" if below == "original" else below
            yield Entry(name + own, f"{raw}{tensor}.{below}", tensor, part, path, p)


def _find_trained_network(tree: Tree) -> None:
    """Set `in_trained_network` of all nodes, as `read_tree` describes."""
    root = tree.root
    for by_mode in (True, False) if root.module.training else (False,):
        trained = _find_trained(root, by_mode)
        # if every possible network is in eval mode, the mode means nothing: pretrained models are
        # often loaded in eval mode
        modules = [node.module for node in trained]
        if any(tree.is_linear(module) or isinstance(module, _ConvNd) for module in modules):
            break
    if root in trained:  # otherwise nothing is trained, and all nodes belong to the network
        _mark_untrained(root, trained)


def _find_trained(root: Node, by_mode: bool) -> set[Node]:
    """Return the nodes with a trained parameter in or below them."""
    found: set[Node] = set()

    def visit(node: Node) -> bool:
        in_eval_mode = by_mode and not isinstance(node.module, NORMS) and _is_in_eval_mode(node)
        below = [visit(child) for child in node.children]
        own = any(entry.parameter.requires_grad for entry in node.entries)
        if (own or any(below)) and not in_eval_mode:
            found.add(node)
        return node in found

    visit(root)
    return found


def _is_in_eval_mode(node: Node) -> bool:
    return not any(module.training for module in node.module.modules())


def _mark_untrained(node: Node, trained: set[Node]) -> None:
    is_stack = isinstance(node.module, STACKS)
    for i, child in enumerate(node.children):
        if child in trained:
            _mark_untrained(child, trained)
        elif not (is_stack and any(later in trained for later in node.children[i + 1 :])):
            _exclude(child)


def _exclude(node: Node) -> None:
    node.in_trained_network = False
    for child in node.children:
        _exclude(child)
