"""Param groups of a model that FSDP flattens and shards before the optimizer is built."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import nn

from lit_optim import AdamW
from lit_optim.errors import UsageError
from lit_optim.param_groups import by_rules, layer_decay, no_decay, snapshot_groups
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup

RULES = [{"name": "0.*", "frozen": True}, {"ndim": 2, "lr_mult": 0.5, "weight_decay": 0.3}]
MAKES = (no_decay, layer_decay, partial(by_rules, rules=RULES))
STEPS = 10


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 1)
    )


def trained(module, groups):
    optimizer = AdamW(groups, lr=0.05, weight_decay=0.1)
    schedule = ScheduledLR(optimizer, cosine_warmup().curve(Horizon(STEPS)))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(STEPS):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
        schedule.step()


def on_a_rank(rank, path):
    """Train on one of two processes with the same samples, which equals training on one."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    for make in MAKES:
        alone, cut = model(), model()
        trained(alone, make(alone))
        later = snapshot_groups(make, cut)
        whole = FullyShardedDataParallel(cut, use_orig_params=True, device_id=torch.device("cpu"))
        with pytest.raises(UsageError, match="FSDP has flattened the parameters"):
            no_decay(whole)
        groups, expected = later(whole), make(model())
        for group, other in zip(groups, expected, strict=True):
            assert group | {"params": []} == other | {"params": []}
        assert all(p.ndim == 1 for group in groups for p in group["params"])  # names tell, not ndim
        trained(whole, groups)
        with FullyShardedDataParallel.summon_full_params(whole):
            for (name, p), q, first in zip(
                alone.named_parameters(), cut.parameters(), model().parameters(), strict=True
            ):
                torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
                frozen = make is MAKES[2] and name.startswith("0.")
                assert torch.equal(p, first) == frozen
    # gloo's threads abort now and then while a process goes down; what was asked is answered
    store = torch.distributed.FileStore(f"{path}_done", 2)
    store.set(str(rank), "done")
    store.wait(["0", "1"])
    os._exit(0)


def test_groups_are_decided_before_fsdp_shards_the_parameters(tmp_path):
    torch.multiprocessing.start_processes(
        on_a_rank, (os.fspath(tmp_path / "store"),), nprocs=2, start_method="forkserver"
    )
