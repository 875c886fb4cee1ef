"""Lightning shards: each optimizer trains what one process trains, through configure_optimizers."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lit_optim
from lit_optim.optimizers import class_places
from lit_optim.training.sharded import ShardedStrategy
from tests.sharding.processes import processes

UPDATES = 6
BATCH = 12  # for two, three and four processes


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(LightningModule):
    """Two blocks between an embedding and a head that share their weight, and a frozen part."""

    def __init__(self, optimizer: str, arguments: dict, groups: str, stock: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.name, self.arguments, self.groups, self.stock = optimizer, arguments, groups, stock
        self.table, self.head = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight
        self.blocks = nn.ModuleList(Block(6) for _ in range(2))
        self.frozen = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.ones(3))
        self.frozen.requires_grad_(False)
        self.double()

    def configure_model(self) -> None:
        if self.stock:
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            mesh = self.device_mesh["data_parallel"]
            for block in self.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self, mesh=mesh)
            register_fsdp_forward_method(self, "training_step")

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(self.table(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch) * self.scale.mean(), (batch + 1) % 7)

    def train_dataloader(self):
        torch.manual_seed(2)
        tokens = torch.randint(7, (BATCH * UPDATES,))
        parts = tokens.view(-1, BATCH)
        if self.trainer.world_size > 1:
            parts = parts.view(-1, self.trainer.world_size, BATCH // self.trainer.world_size)
            parts = parts[:, self.trainer.global_rank]
        return DataLoader([part.clone() for part in parts], batch_size=None)

    def configure_optimizers(self):
        make = partial(getattr(lit_optim, self.name), **self.arguments)
        if self.name == "MuonTorch":  # matrices only
            trained = [p for p in self.parameters() if p.ndim == 2 and p.requires_grad]
            return lit_optim.configure_optimizers(self, make, None, lambda _: [{"params": trained}])
        groups = {
            "layers": partial(lit_optim.param_groups.layer_decay, decay=0.5),
            "rules": partial(
                lit_optim.param_groups,
                rules=[{"name": "blocks.*.up*", "lr": 3e-3, "weight_decay": 0.3}],
            ),
            "none": None,
        }[self.groups]
        cosine = lit_optim.schedules.cosine_warmup(warmup=2)
        schedules = {} if self.name == "Rprop" else {"weight_decay": "lr"}
        return lit_optim.configure_optimizers(self, make, cosine, groups, schedules=schedules)


def fit(
    how: str, optimizer: str, arguments=(), groups="none", clip=None, accumulate=1, algorithm=None
):
    """Train; return the whole parameters by name."""
    kept = dict(os.environ)
    module = Net(optimizer, dict(arguments), groups, stock=how == "stock")
    strategy = {
        "one": "auto",
        "ddp": DDPStrategy(find_unused_parameters=True),
        "fsdp2": ShardedStrategy(),
        "stock": ModelParallelStrategy(int(kept.get("WORLD_SIZE", 1)), 1),
    }[how]
    if how == "one":
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)
    try:
        trainer = Trainer(
            accelerator="cpu",
            devices=1 if how == "one" else int(kept["WORLD_SIZE"]),
            strategy=strategy,
            max_epochs=1,
            logger=False,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=clip,
            gradient_clip_algorithm=algorithm,
            accumulate_grad_batches=accumulate,
        )
        trainer.fit(module)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    params = dict(module.named_parameters())
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in params.items()
    }


def assert_same(how: str, *arguments, size: int = 2) -> None:
    [one] = processes(1).run(fit, "one", *arguments)
    for found in processes(size).run(fit, how, *arguments):
        assert found.keys() == one.keys()
        for name, p in found.items():
            torch.testing.assert_close(p, one[name], rtol=0, atol=1e-10, msg=name)


#: Closures and sparse gradients have no sharded form here.
NAMES = [name for name in class_places() if name not in ("LBFGS", "SparseAdam")]
#: A gradient of low rank has no unique eigenbasis.
ARGUMENTS = {"SOAP": (("max_precondition_dim", 6),)}
SAMPLE = ("Lamb", "Muon", "ScheduleFreeAdamW")


def sample(names, chosen):
    return [n if n in chosen else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", sample(NAMES, SAMPLE))
def test_fsdp2_trains_what_one_process_trains(name):
    assert_same("fsdp2", name, ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", sample(NAMES, ("Muon",)))
def test_ddp_trains_what_one_process_trains(name):
    assert_same("ddp", name, ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", sample(NAMES, ("NorMuon",)))
def test_a_module_that_shards_itself_trains_what_one_process_trains(name):
    assert_same("stock", name, ARGUMENTS.get(name, ()), size=3)


@pytest.mark.parametrize("groups", ["layers", "rules"])
@pytest.mark.parametrize("name", ["AdamW", "Muon", "Adafactor"])
def test_groups_of_sharded_modules_are_those_of_whole_ones(name, groups):
    assert_same("fsdp2", name, (), groups)


@pytest.mark.parametrize("name", ["AdamW", "NorMuon"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_and_accumulation(name, algorithm):
    limit = {"norm": 0.1, "value": 1e-3}[algorithm]
    assert_same("fsdp2", name, (), "none", limit, 2, algorithm)
