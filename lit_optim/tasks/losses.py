"""The loss of an evaluation."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def evaluate_cross_entropy(logits: Tensor, y: Tensor, ignored: int = -100) -> Tensor:
    """Return the mean cross-entropy, in float32 at least: in 16 bits it has three digits.

    Args:
        logits: of shape (samples, classes).
        y: of shape (samples,), the classes.
        ignored: the class of samples that are left out.
    """
    exact = logits.float() if logits.element_size() < 4 else logits
    return cross_entropy(exact, y, ignore_index=ignored)
