"""Describes what each parameter is in its model: its role, its layer, its names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lit_optim.errors import UsageError
from lit_optim.param_groups.tree import NORMS, STACKS, Entry, Node, Tree, read_tree

Role = Literal["hidden", "embedding", "head", "first", "norm", "bias", "vector", "other"]

#: Names of linear layers that compute queries, keys and values at once, or keys and values.
FUSED_QKV = re.compile(
    r"(to_|w_?)?qkv(_proj|_linear)?|qkv_?[nw]?|c_attn|in_proj|query_key_value", re.IGNORECASE
)
FUSED_KV = re.compile(r"(to_|w_?)?kv(_proj|_linear)?|key_value", re.IGNORECASE)
#: Names of linear layers that compute the gate and the values of a gated unit, of any equal width.
FUSED_GATE = re.compile(r"gate_up_proj|gate_and_up_proj|up_gate_proj", re.IGNORECASE)
#: Names of parameters outside of layers that are looked up or added, not multiplied.
TABLE = re.compile(r"emb|token|(^|[._])(wpe|wte|pos)($|[._])", re.IGNORECASE)
#: The number of gates whose weights a recurrent layer stacks in one matrix.
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class ParameterRole(NamedTuple):
    """The role of a parameter, and how matrices [out, in] are stored in it.

    Args:
        role: see `roles`.
        split: the number of equal matrices that are stacked in it.
        transposed: whether it is stored as [in, out, ...].
    """

    role: Role
    split: int = 1
    transposed: bool = False


#: The role of a parameter that several layers share is the first of these.
ROLE_PRIORITY = (
    "embedding",
    "head",
    *(r for r in get_args(Role) if r not in ("embedding", "head")),
)


@dataclass(frozen=True, eq=False)
class ParameterInfo:
    """What a parameter is in its model.

    Args:
        name: its name in the author's code, without the prefixes of torch.compile, DDP and FSDP. A
            parametrized tensor has the name of the tensor: `net.weight`, or `net.weight.original0`
            if it has several parameters.
        names: all its names, if layers share it; `name` is the first.
        raw_names: the same names as in `named_parameters`.
        tensor: the attribute of its layer that it is or parametrizes, such as `weight`.
        parameter: the parameter.
        path: the modules from the root to its layer, which comes last.
        role: see `roles`.
        split: the number of equal matrices that are stacked in it.
        transposed: whether it is stored as [in, out, ...].
        height: the number of layers above it; 0 for the last layer.
        depth: the number of layers below it; 0 for the first layer.
        is_trainable: whether it requires gradients.
    """

    name: str
    names: tuple[str, ...]
    raw_names: tuple[str, ...]
    tensor: str
    parameter: nn.Parameter
    path: tuple[nn.Module, ...]
    role: Role
    split: int
    transposed: bool
    height: int
    depth: int
    is_trainable: bool

    @property
    def layer(self) -> nn.Module:
        """The module that has the parameter."""
        return self.path[-1]

    @property
    def classes(self) -> list[str]:
        """The names of the class of its layer and of the base classes."""
        return [cls.__name__ for cls in type(self.layer).__mro__]


def describe_parameters(module: nn.Module) -> list[ParameterInfo]:
    """Describe each parameter of a model once, in the order of `module.parameters()`.

    Layers, the first convolution and the head are those of the trained network, which
    `tree.read_tree` finds, so they do not depend on frozen modules next to it. Parameters of frozen
    modules have the role and the depth that they would have if everything were trained (but are
    never a head), so that a frozen backbone has its lr when it is unfrozen later.

    Raises:
        UsageError: a layer is lazy and has no shape yet, FSDP has flattened the parameters, or
            TorchScript has compiled a layer that is trained.
    """
    tree = read_tree(module)
    if tree.is_flattened:
        raise UsageError("FSDP has flattened the parameters: decide the groups before, by name")
    for entry in tree.entries:
        if isinstance(entry.node.module, torch.jit.ScriptModule) and entry.parameter.requires_grad:
            raise UsageError(
                "TorchScript does not keep the classes of layers, which decide the groups "
                f"({entry.name}): pass the model that was compiled, which has the same parameters"
            )
    entries: dict[nn.Parameter, list[Entry]] = {}
    for entry in tree.entries:
        entries.setdefault(entry.parameter, []).append(entry)
    trained = _Structure(tree, lambda node: node.in_trained_network)
    full = _Structure(tree, lambda _: True)
    roles = {p: _role_of(own, trained, full) for p, own in entries.items()}
    firsts = [own[0] for own in entries.values()]
    heights = full.heights(firsts, roles)
    in_trained = [entry for entry in firsts if entry.node.in_trained_network]
    heights |= trained.heights(in_trained, roles)
    top = max(heights.values(), default=0)
    return [
        ParameterInfo(
            name=own[0].name,
            names=tuple(dict.fromkeys(entry.name for entry in own)),
            raw_names=tuple(entry.raw_name for entry in own),
            tensor=own[0].tensor,
            parameter=p,
            path=tuple(node.module for node in own[0].path),
            role=roles[p].role,
            split=roles[p].split,
            transposed=roles[p].transposed,
            height=heights[p],
            depth=top - heights[p],
            is_trainable=p.requires_grad,
        )
        for p, own in entries.items()
    ]


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return each parameter once by its name, also if FSDP has flattened it.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    names: dict[nn.Parameter, str] = {}
    for entry in read_tree(module).entries:
        names.setdefault(entry.parameter, entry.name)
    return {name: p for p, name in names.items()}


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that a model stacks, such as the blocks of a transformer, from its input.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    tree = read_tree(module)
    whole = _Structure(tree, lambda _: True)
    return list(dict.fromkeys(node.module for node in whole._layers(tree.root)))


def parameter_names(module: nn.Module) -> dict[nn.Parameter, str]:
    """Return the name of each parameter.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    return {p: name for name, p in named_parameters(module).items()}


class _Structure:
    """The first convolution, the head and the layers of a model or of a part of it.

    Args:
        tree: the model.
        includes: whether a node is in the part.
    """

    def __init__(self, tree: Tree, includes: Callable[[Node], bool]) -> None:
        self.includes = includes
        self.tree = tree
        paths: dict[nn.Module, tuple[Node, ...]] = {}
        for path in self._walk((tree.root,)):
            paths.setdefault(path[-1].module, path)
        whole = [m for m, path in paths.items() if not _is_in_adapter(path)]
        convolutions = [m for m in whole if isinstance(m, _ConvNd)]
        linear = [m for m in whole if tree.is_linear(m)]
        self.first = convolutions[0] if convolutions else None
        self.head = linear[-1] if linear and not self._is_in_block(paths[linear[-1]]) else None
        layers = list(self._layers(tree.root)) or self._plain_layers(tree.root)
        self.layers = {layer: k for k, layer in enumerate(layers, 1)}

    def heights(
        self, entries: list[Entry], roles: dict[nn.Parameter, ParameterRole]
    ) -> dict[nn.Parameter, int]:
        """Count the layers above each of these parameters, which are in the order of the model."""
        depths, reached, last = {}, 0, len(self.layers)
        for entry in entries:
            inside = next((self.layers[node] for node in entry.path if node in self.layers), 0)
            reached = max(reached, inside)
            role = roles[entry.parameter].role
            if role == "embedding":
                depth = 0
            elif inside:
                depth = inside
            else:
                depth = last + 1 if reached == last or role == "head" else reached
            depths[entry.parameter] = depth
        used = sorted(set(depths.values()), reverse=True)
        return {p: used.index(depth) for p, depth in depths.items()}

    def _children(self, node: Node) -> list[Node]:
        return [child for child in node.children if self.includes(child)]

    def _walk(self, path: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
        yield path
        for child in self._children(path[-1]):
            yield from self._walk((*path, child))

    def _is_in_block(self, path: tuple[Node, ...]) -> bool:
        """Whether a layer is inside one of several blocks."""
        for container, block in pairwise(path[:-1]):
            siblings = [
                child
                for child in self._children(container)
                if child.layer_class is block.layer_class
            ]
            if isinstance(container.module, STACKS) and len(siblings) > 1:
                return True
        return False

    def _layers(self, node: Node) -> Iterator[Node]:
        """Yield the members of stacks that have several of one class, starting at the input."""
        children = self._children(node)
        kinds = [child.layer_class for child in children]
        repeats = isinstance(node.module, STACKS) and len(set(kinds)) < len(kinds)
        for child in children:
            is_stage = (
                isinstance(child.module, STACKS) or "stage" in child.layer_class.__name__.lower()
            )
            # the modules inside a block are not layers
            within = list(self._layers(child)) if is_stage or not repeats else []
            yield from within or ([child] if repeats else [])

    def _plain_layers(self, node: Node) -> list[Node]:
        """Return the children of the first module that has several."""
        children = self._children(node)
        while len(children) == 1 and not node.entries and self._children(children[0]):
            node = children[0]
            children = self._children(node)
        return children


def _role_of(entries: list[Entry], trained: _Structure, full: _Structure) -> ParameterRole:
    """Return the role of a parameter under all its names."""
    roles = [_role_of_entry(entry, trained, full) for entry in entries]
    return min(roles, key=lambda role: ROLE_PRIORITY.index(role.role))


def _role_of_entry(entry: Entry, trained: _Structure, full: _Structure) -> ParameterRole:
    layer, own, p = entry.node.module, entry.tensor, entry.parameter
    if own.startswith("bias") or own.endswith("bias"):
        return ParameterRole("bias")
    if isinstance(layer, NORMS):
        return ParameterRole("norm")
    if p.ndim < 2 or _is_magnitude(entry):
        return ParameterRole("vector")
    is_weight = own in ("weight", "weight_v") and not _is_factor(entry)
    transposed = is_weight and layer in full.tree.transposed
    role = _role_of_matrix(entry, p.transpose(0, 1).shape if transposed else p.shape, trained, full)
    split = _count_parts(entry, transposed, full.tree) if role == "hidden" else 1
    return ParameterRole(role, split, transposed)


def _role_of_matrix(
    entry: Entry, shape: Sequence[int], trained: _Structure, full: _Structure
) -> Role:
    """Return the role of a parameter of this shape, [out, in, ...]."""
    layer, own = entry.node.module, entry.tensor
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) or _adapts_embedding(entry.path):
        return "embedding"
    if layer is trained.head:
        return "head"
    if layer is trained.first or (layer is full.first and not entry.node.in_trained_network):
        return "first"
    if shape[0] in (1, math.prod(shape)) or getattr(layer, "groups", 1) != 1:
        return "other"
    return "embedding" if own != "weight" and TABLE.search(own) else "hidden"


def _count_parts(entry: Entry, transposed: bool, tree: Tree) -> int:
    """Return the number of equal matrices that are stacked in a parameter, along its outputs."""
    layer, own = entry.node.module, entry.tensor
    if _is_factor(entry):
        return 1
    if own == "in_proj_weight":
        return 3
    rows, columns = entry.parameter.shape[:2][:: -1 if transposed else 1]
    name = entry.node.name.rpartition(".")[2]
    if tree.is_linear(layer):
        if FUSED_GATE.fullmatch(name):
            return 2 if rows % 2 == 0 else 1
        # the keys and values of a cross attention in GPT-2 are two
        parts = [3] * bool(FUSED_QKV.fullmatch(name))
        parts += [2] * (bool(FUSED_KV.fullmatch(name)) or (transposed and name == "c_attn"))
        # other shapes are those of heads that share keys and values: the parts differ in height
        return next((k for k in parts if rows == k * columns), 1)
    if not own.startswith(("weight_ih", "weight_hh")):
        return 1  # the projection of an LSTM
    return next((gates for kind, gates in GATES.items() if isinstance(layer, kind)), 1)


def _is_in_adapter(path: Sequence[Node]) -> bool:
    """Whether a layer is a factor of peft's LoRA, which is no first convolution and no head."""
    return any(node.name.rpartition(".")[2].startswith("lora_") for node in path)


def _adapts_embedding(path: Sequence[Node]) -> bool:
    """Whether a layer of peft around an embedding has the parameter."""
    inner = (getattr(node.module, "base_layer", None) for node in path)
    return any(isinstance(layer, nn.Embedding) for layer in inner)


def _is_magnitude(entry: Entry) -> bool:
    """Whether it holds the norms of the rows of a weight under weight normalization."""
    p, layer = entry.parameter, entry.node.module
    old = entry.tensor.endswith("_g") and hasattr(layer, f"{entry.tensor[:-2]}_v")
    new = entry.part.startswith("original")
    return (old or new) and p.numel() == max(p.shape)


def _is_factor(entry: Entry) -> bool:
    """Whether a parametrization computes the tensor from it, in another shape."""
    return bool(entry.part) and not entry.part.startswith("original")
