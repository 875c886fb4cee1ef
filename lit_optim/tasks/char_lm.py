"""The characters of a text file, and a small GPT that predicts the next one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torchmetrics.aggregation import MeanMetric

from lit_optim.errors import UsageError, show
from lit_optim.tasks.data import TensorTask, of_lists_or_tensors
from lit_optim.tasks.logged import is_logged
from lit_optim.tasks.losses import evaluate_cross_entropy
from lit_optim.tasks.sizes import check_sizes

Size = Annotated[int, "> 0"]
IGNORED = -100  # cross_entropy leaves such targets out


class Windows:
    """Windows of a text: `block` characters as input, and the character after each as target.

    Args:
        ids: (length,) the characters as numbers.
        block: the length of a window.
        stride: the distance between the starts of windows. With stride = block every character but
            the first is predicted once; the last window is padded, and its padding is ignored.
    """

    def __init__(self, ids: Tensor, block: int, stride: int) -> None:
        self.stride = stride
        self.count = max(0, len(ids) - block if stride == 1 else math.ceil((len(ids) - 1) / stride))
        pad = max(0, (self.count - 1) * stride + block + 1 - len(ids))
        self.x = torch.cat([ids, ids.new_zeros(pad)])
        self.y = torch.cat([ids, ids.new_full((pad,), IGNORED)])
        self.offsets = torch.arange(block)

    def __len__(self) -> int:
        return self.count

    @of_lists_or_tensors
    def __getitem__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        at = torch.as_tensor(indices).unsqueeze(1) * self.stride + self.offsets
        return self.x[at], self.y[at + 1]


class CharText(TensorTask):
    """The characters of a text file: the beginning for training, the end for validation.

    Training batches are random windows; validation covers every character of its part once.

    Args:
        path: the text file (UTF-8).
        batch_size: windows per batch over all devices.
        block: characters in a window.
        val_share: the share of the text that is held out for validation.
        shuffle: whether training windows are in random order.
        seed: of that order.

    Raises:
        UsageError: no path, no such file, or less text than one window.
    """

    def __init__(
        self,
        path: str | None = None,
        batch_size: Annotated[int, "> 0"] = 12,
        block: Size = 64,
        val_share: Annotated[float, "in (0, 1)"] = 0.1,
        shuffle: bool = True,
        seed: Annotated[int, ">= 0"] = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        if path is None:
            raise UsageError("data.path must be given: a text file, such as data.path=book.txt")
        if not Path(path).is_file():
            raise UsageError(f"data.path must be a text file, got {show(path)}")
        self.block = block
        try:
            text = Path(path).read_text("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"data.path must be a text file in UTF-8, got {show(path)}") from None
        self.vocabulary = sorted(set(text))
        number = {character: i for i, character in enumerate(self.vocabulary)}
        ids = torch.tensor([number[character] for character in text])
        kept = int(len(ids) * (1 - val_share))
        self._train = Windows(ids[:kept], block, stride=1)
        self._val = Windows(ids[kept:], block, stride=block)
        if not len(self._train) or not len(self._val):
            raise UsageError(f"data.path: {len(ids)} characters are too few for windows of {block}")

    @property
    def vocab_size(self) -> int:
        """The number of different characters in the text."""
        return len(self.vocabulary)

    def train_set(self) -> Windows:
        return self._train

    def val_set(self) -> Windows:
        return self._val

    def test_set(self) -> tuple[()]:
        return ()


class Attention(nn.Module):
    """Causal self-attention over (batch, time, width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> the same."""
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(batch, time, width))
        return out


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> the same."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class GPT(LightningModule):
    """A small GPT-2 without biases, embedding and head tied.

    Radford et al. 2019; sizes and initialization follow nanoGPT's CPU example. Losses are in nats
    per character.

    Args:
        vocab_size: the number of tokens.
        block: the maximum length of an input.
        layers: the number of transformer layers.
        heads: the attention heads of a layer, which divide `width`.
        width: the width of the residual stream.
        dropout: the share of activations that are dropped in training.

    Raises:
        UsageError: `width` is not a multiple of `heads`.
    """

    monitor = ("val/loss", "min")

    def __init__(
        self,
        vocab_size: Size,
        block: Size,
        layers: Size = 4,
        heads: Size = 4,
        width: Size = 128,
        dropout: Annotated[float, "in [0, 1)"] = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"model.width={width} must be a multiple of model.heads={heads}")
        self.save_hyperparameters(logger=False)
        self.val_loss = MeanMetric()
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(block, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.token.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                ends_residual = name.endswith(("proj.weight", "mlp.2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if ends_residual else 0.02)

    def setup(self, stage: str) -> None:
        check_sizes(self, at_least=("block", "vocab_size"))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) of tokens -> (batch, time, vocab_size) of logits."""
        h = self.token(x) + self.position.weight[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.layers(self.dropout(h))))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        loss = cross_entropy(self(x).flatten(0, 1), y.flatten())
        return {"loss": loss, "mean": loss.detach()}  # Lightning divides "loss" when accumulating

    def on_train_batch_end(
        self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        if outputs and is_logged(self.trainer):
            self.log("train/loss", outputs["mean"], prog_bar=True, batch_size=len(batch[0]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        loss = evaluate_cross_entropy(self(x).flatten(0, 1), y.flatten(), IGNORED)
        # weighted, so that the mean is over characters and not over batches
        self.val_loss.update(loss, weight=(y != IGNORED).sum())

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss, prog_bar=True)
