"""Whether tensors are 0 on all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_optim.sharding.placement import Sharding, local_tensor
from lit_optim.sharding.sums import Sums


def are_zero(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements of all tensors are 0, also those that other processes have.

    All processes that they are spread over call it together.
    """
    counts: dict[Sharding | None, Tensor] = {}
    for x in tensors:
        where, local = Sharding.of(x), local_tensor(x)
        count = local.count_nonzero().to(torch.float32).view(1)
        counts[where] = counts[where] + count.to(counts[where].device) if where in counts else count
    own = counts.pop(None, None)
    requests = [Sums(count, where) for where, count in counts.items() if where is not None]
    totals = [*Sums.answer(requests), *([] if own is None else [own])]
    return not any(bool(total) for total in totals)
