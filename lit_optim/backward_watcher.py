"""Finds out whether an optimizer updates parameters in the backward pass, from outside of it."""

from __future__ import annotations

from weakref import ref

import torch
from torch import Tensor

#: Integer dtypes by their size in bytes, to compare the bits of numbers.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class BackwardWatcher:
    """Notices whether gradients are consumed in the backward pass, as optimizers like LOMO do."""

    def __init__(self, params: list[Tensor]) -> None:
        self._params = [ref(p) for p in params]
        self._reached = self._consumed = False
        # these hooks run after the optimizer's own, which was registered before
        self._handles = [
            p.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
            for p in params
            if p.requires_grad and p.is_leaf
        ]
        self._bits = self._fingerprint()

    def _note(self, p: Tensor) -> None:
        self._reached = True
        self._consumed = self._consumed or p.grad is None

    def has_updated(self) -> bool:
        """Whether the parameters were updated since the last call.

        A hook that runs before its gradient is stored updates the parameter at the next gradient,
        so only the parameters themselves show whether there was an update.
        """
        if not self._reached:
            return False
        bits = self._fingerprint()
        updated, self._bits = self._consumed or bits != self._bits, bits
        self._reached = self._consumed = False
        return updated

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _fingerprint(self) -> list[int]:
        sums = []
        for p in (reference() for reference in self._params):
            if p is None or p.is_meta or type(p.data) is not Tensor or p.layout != torch.strided:
                continue
            plain = torch.view_as_real(p) if p.is_complex() else p.detach()
            sums.append(plain.contiguous().view(BITS[plain.element_size()]).sum())
        return [int(total) for total in sums]
