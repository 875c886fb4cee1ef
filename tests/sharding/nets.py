"""Small float64 models with everything that shards badly, and their batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

VOCABULARY, LENGTH, BATCH = 11, 4, 12
#: The number of updates before a branch of the model is used.
LATE = 2


class Block(nn.Module):
    def __init__(self, width: int, inner: int, matrices: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if matrices else nn.LayerNorm(width)
        self.up = nn.Linear(width, inner, bias=not matrices)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    """A language model of a few hundred weights.

    Over four processes some have an empty shard of its six rows, and its eleven are uneven.

    Args:
        tied: whether the head has the weight of the embedding.
        late: whether a branch is unused in the first updates.
        frozen: whether the embedding and the first block are not trained.
        matrices: whether all of its parameters are matrices.
    """

    def __init__(
        self, tied: bool = False, late: bool = False, frozen: bool = False, matrices: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.blocks = nn.ModuleList([Block(6, 12, matrices), Block(6, 12, matrices)])
        self.conv = None if matrices else nn.Conv1d(6, 6, 3, padding=1)
        self.late = nn.Linear(6, 6, bias=not matrices)
        self.head = nn.Linear(6, VOCABULARY, bias=not matrices)
        self.has_late = late
        if tied:
            self.head.weight = self.embed.weight
        if frozen:
            self.embed.requires_grad_(False)
            self.blocks[0].requires_grad_(False)

    def forward(self, tokens: Tensor, step: int) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        if self.conv is not None:
            x = x + torch.tanh(self.conv(x.mT)).mT
        if not self.has_late or step >= LATE:
            x = x + torch.tanh(self.late(x))
        return self.head(x.flatten(0, 1))


class Wide(nn.Module):
    """A model whose rows have as many elements as a block of an int8 state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 256)
        self.blocks = nn.ModuleList([nn.Linear(256, 6, bias=False)])
        self.head = nn.Linear(256, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, step: int) -> Tensor:
        x = self.embed(tokens).flatten(0, 1)
        return self.head(x) * (1 + torch.tanh(self.blocks[0](x)).mean(-1, keepdim=True))


def make_net(kind: str, **flags: bool) -> nn.Module:
    """A model, always with the same weights."""
    torch.manual_seed(0)
    net = {"net": Net, "wide": Wide}[kind](**flags)
    return net.double()


def batch(step: int, part: int) -> tuple[Tensor, Tensor]:
    """The tokens of an update and the targets, for all processes together."""
    generator = torch.Generator().manual_seed(100 * step + part)
    tokens, targets = torch.randint(VOCABULARY, (2, BATCH, LENGTH), generator=generator)
    return tokens, targets


def loss_of(net: nn.Module, step: int, part: int, rank: int = 0, size: int = 1) -> Tensor:
    """The loss of this process's share of a batch."""
    own = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    tokens, targets = batch(step, part)
    return cross_entropy(net(tokens[own], step), targets[own].flatten())
