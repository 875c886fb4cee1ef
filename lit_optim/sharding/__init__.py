"""Parameters that are spread over processes: where their shards are, and what has to be sent.

FSDP2, HSDP and tensor parallelism of torch leave DTensors in the model. An optimizer updates the
local shard of each; what it needs from other processes it asks for by a `Request`, and all that is
asked for at the same time is sent together.
"""

from lit_optim.sharding.placement import (
    Sharding,
    is_sharded,
    local_gradient,
    local_tensor,
    runs_of,
)
from lit_optim.sharding.requests import Request, Steps, run_together
from lit_optim.sharding.sums import Sums, add_up, are_zero, has_nonzero
from lit_optim.sharding.wholes import free_gathered, gather_wholes, shard_like

__all__ = [
    "Request",
    "Sharding",
    "Steps",
    "Sums",
    "add_up",
    "are_zero",
    "free_gathered",
    "gather_wholes",
    "has_nonzero",
    "is_sharded",
    "local_gradient",
    "local_tensor",
    "run_together",
    "runs_of",
    "shard_like",
]
