"""What each parameter is in its model: one description, which everything else reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lit_optim.errors import UsageError
from lit_optim.param_groups.tree import NORMS, STACKS, Entry, Node, Tree, read_tree

Role = Literal["hidden", "embedding", "head", "first", "norm", "bias", "vector", "other"]

#: How linear layers are called that make queries, keys and values in one.
FUSED = re.compile(r"qkv|qkv_proj|c_attn|in_proj|wqkv|query_key_value", re.IGNORECASE)
#: Bare parameters that are looked up or added, not multiplied with.
TABLE = re.compile(r"emb|token|(^|[._])(wpe|wte|pos)($|[._])", re.IGNORECASE)
#: Gates that a recurrent layer keeps one below the other.
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class Place(NamedTuple):
    """The role of a parameter, and of how many equal matrices, one below the other, it is made."""

    role: Role
    split: int = 1


#: The role of a parameter that several layers share is the first of these.
FIRST = ("embedding", "head", *(r for r in get_args(Role) if r not in ("embedding", "head")))


@dataclass(frozen=True, eq=False)
class ParameterInfo:
    """What a parameter is in its model.

    Args:
        name: as its author wrote it: without the prefixes of torch.compile, DDP and FSDP, and for
            a parametrized tensor that of the tensor (`net.weight`, and `net.weight.original0`
            where it is made of several).
        names: all its names, where layers share it; `name` is the first.
        raw_names: the same as `named_parameters` has them.
        tensor: the attribute of its layer that it is, or makes: `weight`.
        parameter: itself.
        path: the modules from the root to its layer, which comes last.
        role: see `roles`.
        split: of how many equal matrices, one below the other, it is made.
        height: the layers above it; 0 for the last.
        depth: the layers below it; 0 for the first.
        is_trainable: whether it gets gradients.
    """

    name: str
    names: tuple[str, ...]
    raw_names: tuple[str, ...]
    tensor: str
    parameter: nn.Parameter
    path: tuple[nn.Module, ...]
    role: Role
    split: int
    height: int
    depth: int
    is_trainable: bool

    @property
    def layer(self) -> nn.Module:
        """The module that has it."""
        return self.path[-1]

    @property
    def classes(self) -> list[str]:
        """The names of the class of its layer and of the bases of that."""
        return [cls.__name__ for cls in type(self.layer).__mro__]


def describe_parameters(module: nn.Module) -> list[ParameterInfo]:
    """Describe each parameter of a model once, in the order of `module.parameters()`.

    Layers, the first convolution and the head are those of the network that is trained, as
    `tree.read_tree` finds it, and so they do not depend on what stands frozen beside it. What
    stands there has a role and a depth too, those that it would have if all were trained (but it is
    no head), so that a frozen backbone that is unfrozen later has its lr.

    Raises:
        UsageError: a layer is lazy and has no shape yet, or FSDP has flattened the parameters.
    """
    tree = read_tree(module)
    if tree.is_flattened:
        raise UsageError("FSDP has flattened the parameters: decide the groups before, by name")
    entries: dict[nn.Parameter, list[Entry]] = {}
    for entry in tree.entries:
        entries.setdefault(entry.parameter, []).append(entry)
    trained, whole = _Structure(tree, lambda node: node.counts), _Structure(tree, lambda _: True)
    places = {p: _place_of(own, trained, whole) for p, own in entries.items()}
    firsts = [own[0] for own in entries.values()]
    heights = whole.heights(firsts, places)
    heights |= trained.heights([entry for entry in firsts if entry.node.counts], places)
    top = max(heights.values(), default=0)
    return [
        ParameterInfo(
            name=own[0].name,
            names=tuple(dict.fromkeys(entry.name for entry in own)),
            raw_names=tuple(entry.raw_name for entry in own),
            tensor=own[0].tensor,
            parameter=p,
            path=tuple(node.module for node in own[0].path),
            role=places[p].role,
            split=places[p].split,
            height=heights[p],
            depth=top - heights[p],
            is_trainable=p.requires_grad,
        )
        for p, own in entries.items()
    ]


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Each parameter once, by its name, also where FSDP has flattened it.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    names: dict[nn.Parameter, str] = {}
    for entry in read_tree(module).entries:
        names.setdefault(entry.parameter, entry.name)
    return {name: p for p, name in names.items()}


def parameter_names(module: nn.Module) -> dict[nn.Parameter, str]:
    """The name of each parameter.

    Raises:
        UsageError: a layer is lazy and has no shape yet.
    """
    return {p: name for name, p in named_parameters(module).items()}


class _Structure:
    """The first convolution, the head and the layers of a model, or of a part of it.

    Args:
        tree: the model.
        uses: which nodes are looked at.
    """

    def __init__(self, tree: Tree, uses: Callable[[Node], bool]) -> None:
        self.uses = uses
        paths: dict[nn.Module, tuple[Node, ...]] = {}
        for path in self._walk((tree.root,)):
            paths.setdefault(path[-1].module, path)
        convolutions = [m for m in paths if isinstance(m, _ConvNd)]
        linear = [m for m in paths if isinstance(m, nn.Linear)]
        self.first = convolutions[0] if convolutions else None
        self.head = linear[-1] if linear and not self._is_in_block(paths[linear[-1]]) else None
        layers = list(self._layers(tree.root)) or self._plain_layers(tree.root)
        self.layers = {layer: k for k, layer in enumerate(layers, 1)}

    def heights(
        self, entries: list[Entry], places: dict[nn.Parameter, Place]
    ) -> dict[nn.Parameter, int]:
        """How many layers are above each of these parameters, which come in order."""
        depths, begun, last = {}, 0, len(self.layers)
        for entry in entries:
            inside = next((self.layers[node] for node in entry.path if node in self.layers), 0)
            begun = max(begun, inside)
            role = places[entry.parameter].role
            if role == "embedding":
                depth = 0
            elif inside:
                depth = inside
            else:
                depth = last + 1 if begun == last or role == "head" else begun
            depths[entry.parameter] = depth
        used = sorted(set(depths.values()), reverse=True)
        return {p: used.index(depth) for p, depth in depths.items()}

    def _children(self, node: Node) -> list[Node]:
        return [child for child in node.children if self.uses(child)]

    def _walk(self, path: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
        yield path
        for child in self._children(path[-1]):
            yield from self._walk((*path, child))

    def _is_in_block(self, path: tuple[Node, ...]) -> bool:
        """Whether a layer is within one of several blocks."""
        for container, block in pairwise(path[:-1]):
            alike = [child for child in self._children(container) if child.kind is block.kind]
            if isinstance(container.module, STACKS) and len(alike) > 1:
                return True
        return False

    def _layers(self, node: Node) -> Iterator[Node]:
        """The members of stacks that have several of one class, from the input on."""
        children = self._children(node)
        kinds = [child.kind for child in children]
        repeats = isinstance(node.module, STACKS) and len(set(kinds)) < len(kinds)
        for child in children:
            is_stage = isinstance(child.module, STACKS) or "stage" in child.kind.__name__.lower()
            # what a block is made of are no layers
            within = list(self._layers(child)) if is_stage or not repeats else []
            yield from within or ([child] if repeats else [])

    def _plain_layers(self, node: Node) -> list[Node]:
        """The children of the first module that has several."""
        children = self._children(node)
        while len(children) == 1 and not node.entries and self._children(children[0]):
            node = children[0]
            children = self._children(node)
        return children


def _place_of(entries: list[Entry], trained: _Structure, whole: _Structure) -> Place:
    """The place of a parameter, by all its names."""
    places = [_place(entry, trained, whole) for entry in entries]
    return min(places, key=lambda one: FIRST.index(one.role))


def _place(entry: Entry, trained: _Structure, whole: _Structure) -> Place:
    layer, own, p = entry.node.module, entry.tensor, entry.parameter
    if own.startswith("bias") or own.endswith("bias"):
        return Place("bias")
    if isinstance(layer, NORMS):
        return Place("norm")
    if p.ndim < 2 or _is_magnitude(entry):
        return Place("vector")
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return Place("embedding")
    if layer is trained.head:
        return Place("head")
    if layer is trained.first or (layer is whole.first and not entry.node.counts):
        return Place("first")
    if p.shape[0] == 1 or p.shape[0] == p.numel() or getattr(layer, "groups", 1) != 1:
        return Place("other")
    if own != "weight" and TABLE.search(own):
        return Place("embedding")
    parts = next((gates for kind, gates in GATES.items() if isinstance(layer, kind)), 1)
    fused = isinstance(layer, nn.Linear) and FUSED.fullmatch(entry.node.name.rpartition(".")[2])
    if own == "in_proj_weight" or (fused and p.shape[0] == 3 * p.shape[1]):
        parts = 3
    return Place("hidden", parts if own != "weight_hr" and not _is_factor(entry) else 1)


def _is_magnitude(entry: Entry) -> bool:
    """Whether it is the lengths of the rows of a weight under weight normalization."""
    p, layer = entry.parameter, entry.node.module
    old = entry.tensor.endswith("_g") and hasattr(layer, f"{entry.tensor[:-2]}_v")
    new = entry.part.startswith("original")
    return (old or new) and p.numel() == max(p.shape)


def _is_factor(entry: Entry) -> bool:
    """Whether a parametrization makes the tensor of it, in another shape."""
    return bool(entry.part) and not entry.part.startswith("original")
