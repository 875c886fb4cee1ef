"""Lightning's fine-tuning callbacks: unfrozen layers get the lr that the callback sets."""

from __future__ import annotations

import copy
from functools import partial

import numpy
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

import lit_optim
from lit_optim import AdamW, Muon
from lit_optim.callbacks.resumable import Resumable
from lit_optim.optimizers import class_places, find_optimizer, is_available
from lit_optim.param_groups import by_rules, layer_decay, single
from lit_optim.schedules.library import linear
from lit_optim.training.requirements import requirements_of
from lit_optim.wrappers import Ema, Wrapped
from tests.lightning.modules import Data, trainer

LR, EPOCHS, BATCHES = 0.01, 5, 10
AVAILABLE = [name for name, place in class_places().items() if is_available(place)]
NEED_ROLES = [name for name in AVAILABLE if "roles" in requirements_of(find_optimizer(name))]


class Pretrained(LightningModule):
    """A backbone and a head, as Lightning's example has them."""

    def __init__(self, configure):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4)).double()
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).double()
        for p in self.parameters():  # Lightning takes parameters of equal values for the same
            nn.init.normal_(p, std=0.5)
        self.configure = configure
        self.lrs = []

    def training_step(self, batch, batch_idx):
        return (self.head(self.backbone(batch[0])) - 1).square().mean()

    def configure_optimizers(self):
        return self.configure(self)

    def on_before_optimizer_step(self, optimizer):
        by_parameter = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
        self.lrs.append([float(by_parameter.get(p, 0.0)) for p in self.parameters()])


def ours(scheduler=None, param_groups=single, make=None):
    make = make or partial(AdamW, lr=LR)
    return lambda module: lit_optim.configure_optimizers(module, make, scheduler, param_groups)


def torchs(module):
    """As Lightning documents it: what is trainable, and no schedule."""
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=LR)


class Thaw(BaseFinetuning):
    """A callback of one's own: the upper layer of the backbone first, the lower ones later."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone[2], optimizer, lr=LR / 4)
        if epoch == 3:
            self.unfreeze_and_add_param_group(pl_module.backbone[:2], optimizer)


CALLBACKS = {
    "backbone": lambda: BackboneFinetuning(2, lambda epoch: 1.5, backbone_initial_ratio_lr=0.1),
    "aligned": lambda: BackboneFinetuning(1, lambda epoch: 20.0, backbone_initial_lr=LR / 50),
    "own": Thaw,
}


def fit(tmp_path, configure, callback, epochs=EPOCHS, **more):
    module = Pretrained(configure)
    run = trainer(tmp_path, max_epochs=epochs, callbacks=[callback(), Resumable()], **more)
    run.fit(module, Data(batches=BATCHES))
    return module, run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
@pytest.mark.parametrize(
    "param_groups", [single, None, partial(by_rules, base="single")], ids=["all", "decay", "rules"]
)
def test_as_torchs_optimizer_in_lightning(tmp_path, callback, param_groups):
    expected, _ = fit(tmp_path, torchs, callback)
    found, run = fit(tmp_path, ours(param_groups=param_groups), callback)
    numpy.testing.assert_allclose(found.lrs, expected.lrs, rtol=1e-12)
    assert {lr for lrs in found.lrs for lr in lrs} != {LR}
    names = [n for g in run.optimizers[0].param_groups for n in g["param_names"]]
    assert sorted(names) == sorted(n for n, _ in found.named_parameters())
    if param_groups is not None:  # else what is no matrix is not decayed
        for p, q in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.AdamW, lr=LR),
        Wrapped(partial(torch.optim.AdamW, lr=LR), partial(Ema, decay=0.5)),
        lambda groups: torch.optim.AdamW(groups, lr=LR),
        "instance",
    ],
    ids=["class", "wrapped", "function", "instance"],
)
def test_an_optimizer_of_torch(tmp_path, callback, make):
    """Groups without names are added to groups that have them, and the run can be resumed."""

    def configure(module):
        if make != "instance":
            return ours(make=make)(module)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        return lit_optim.configure_optimizers(module, torch.optim.AdamW(named, lr=LR))

    expected, _ = fit(tmp_path, torchs, callback)
    found, run = fit(tmp_path, configure, callback)
    assert found.lrs == expected.lrs
    names = [n for g in run.optimizers[0].param_groups for n in g["param_names"]]
    assert sorted(names) == sorted(n for n, _ in found.named_parameters())
    half, first = fit(tmp_path, configure, callback, epochs=EPOCHS - 1)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Pretrained(configure)
    again = trainer(tmp_path, max_epochs=EPOCHS, callbacks=[callback(), Resumable()])
    again.fit(resumed, Data(batches=BATCHES), ckpt_path=tmp_path / "half.ckpt")
    assert half.lrs + resumed.lrs == expected.lrs
    if not isinstance(make, Wrapped):  # whose weights at the end are the averages
        for p, q, r in zip(*(m.parameters() for m in (expected, found, resumed)), strict=True):
            assert torch.equal(p, q)
            assert torch.equal(p, r)


@pytest.mark.parametrize("form", [list, iter, lambda params: next(iter(params)), "named"])
def test_a_group_that_the_module_itself_adds(tmp_path, form):
    """As in torch, by its parameters, one parameter or named parameters."""

    class Adds(Pretrained):
        def on_train_start(self):
            self.added = nn.Linear(2, 2).double()
            given = self.added.parameters()
            params = self.added.named_parameters() if form == "named" else form(given)
            self.trainer.optimizers[0].add_param_group({"params": params, "lr": 0.5})

    module = Adds(ours(make=partial(torch.optim.SGD, lr=LR)))
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, Data(batches=1))
    group = run.optimizers[0].param_groups[-1]
    prefix = "" if form == "named" else "added."
    names = [prefix + name for name, _ in module.added.named_parameters()]
    assert group["param_names"] == names[: len(group["params"])]
    assert group["lr"] == 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_under_a_schedule(tmp_path, callback):
    """The head follows the schedule; what is unfrozen begins as its callback says, and follows."""
    module, _ = fit(tmp_path, ours(linear(warmup=0)), callback)
    steps = EPOCHS * BATCHES
    shares = [(steps - 1 - t) / steps for t in range(steps)]  # straight down to 0
    head = [lrs[-1] for lrs in module.lrs]
    assert head == pytest.approx([LR * share for share in shares], abs=1e-15)
    for place in range(len(module.lrs[0]) - 4):
        backbone = [lrs[place] for lrs in module.lrs]
        first = next(t for t, lr in enumerate(backbone) if lr)
        assert first % BATCHES == 0
        for t in range(first, steps - 1):
            if (t + 1) % BATCHES:  # within an epoch their ratio stays
                assert backbone[t + 1] / backbone[t] == pytest.approx(head[t + 1] / head[t])
        brought = {"backbone": 0.1 * head[2 * BATCHES], "aligned": LR / 50}
        name = next(n for n, make in CALLBACKS.items() if make is callback)
        if name in brought:
            assert backbone[first] == pytest.approx(brought[name])
        elif first == BATCHES:
            assert backbone[first] == pytest.approx(LR / 4)
        else:
            assert backbone[first] == pytest.approx(head[first] / 10)
    if callback is CALLBACKS["backbone"]:  # its own ramp, epoch by epoch
        ramp = [module.lrs[k * BATCHES][0] for k in (2, 3, 4)]
        assert ramp[1:] == pytest.approx([1.5 * ramp[0], 1.5**2 * ramp[0]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "configure",
    [
        ours(linear(), make=partial(Muon, lr=LR), param_groups=None),
        ours(linear(), param_groups=layer_decay),
        ours(linear(), make=Wrapped(partial(AdamW, lr=LR), Ema)),
    ],
    ids=["muon", "layers", "ema"],
)
@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_everything_is_trained_in_the_end(tmp_path, configure, callback):
    before = copy.deepcopy(Pretrained(configure).state_dict())
    module, run = fit(tmp_path, configure, callback)
    params = [p for g in run.optimizers[0].param_groups for p in g["params"]]
    assert sorted(map(id, params)) == sorted(map(id, module.parameters()))
    for name, p in module.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "param_groups"),
    [
        (None, single),
        (partial(Muon, lr=LR), None),
        (Wrapped(partial(AdamW, lr=LR), Ema), None),
    ],
    ids=["adamw", "muon", "ema"],
)
def test_a_run_goes_on(tmp_path, make, param_groups):
    configure = ours(linear(total=EPOCHS * BATCHES), param_groups, make)
    callback = CALLBACKS["backbone"]
    straight, _ = fit(tmp_path, configure, callback)
    half, run = fit(tmp_path, configure, callback, 4)
    run.save_checkpoint(tmp_path / "half.ckpt")
    module = Pretrained(configure)
    again = trainer(tmp_path, max_epochs=EPOCHS, callbacks=[callback(), Resumable()])
    again.fit(module, Data(batches=BATCHES), ckpt_path=tmp_path / "half.ckpt")
    numpy.testing.assert_allclose(half.lrs + module.lrs, straight.lrs, rtol=1e-12)
    for p, q in zip(module.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


class InOrder(LightningModule):
    """A backbone that ends with a linear layer, and a network, registered in any order."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        for name in names:
            layers = [nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)]
            self.add_module(name, nn.Sequential(*layers).double())
        for p in self.parameters():
            nn.init.normal_(p, std=0.5)

    def training_step(self, batch, batch_idx):
        return (self.network(self.backbone(batch[0])) - 1).square().mean()

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, partial(Muon, lr=LR))


class ThawInTurn(BaseFinetuning):
    """Unfreezes the modules of these names, each in an epoch of its own."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def freeze_before_training(self, pl_module):
        for name in self.names:
            self.freeze(pl_module.get_submodule(name), train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if 0 < epoch <= len(self.names):
            part = pl_module.get_submodule(self.names[epoch - 1])
            self.make_trainable(part)
            optimizer.add_param_group({"params": part.parameters()})  # a generator


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [("backbone", "network"), ("network", "backbone")])
@pytest.mark.parametrize(
    "callback",
    [
        partial(BackboneFinetuning, 1),
        partial(ThawInTurn, "backbone.2", "backbone.0", "backbone.1"),
        partial(ThawInTurn, "backbone.0", "backbone.1", "backbone.2"),
    ],
    ids=["whole", "from above", "from below"],
)
def test_a_backbone_has_no_head(tmp_path, names, callback):
    """In whatever order a module registers its parts, theirs are the roles in a whole network."""
    module = InOrder(names)
    run = trainer(tmp_path, max_epochs=5, callbacks=[callback()])
    run.fit(module, Data(batches=2))
    whole = Muon(InOrder(("backbone", "network")))

    def roles(optimizer):
        pairs = ((n, g["role"]) for g in optimizer.param_groups for n in g["param_names"])
        return dict(sorted(pairs))

    assert roles(run.optimizers[0]) == roles(whole)
    assert all(p.requires_grad for p in module.parameters())


class Usual(LightningModule):
    """A frozen backbone with all hidden matrices, and a head of one layer."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        self.head = nn.Linear(3, 2).double()
        self.make, self.heads = make, []
        for p in self.parameters():
            nn.init.normal_(p, std=0.5)

    def training_step(self, batch, batch_idx):
        return (self.head(self.backbone(batch[0])) - 1).square().mean()

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make)

    def on_train_epoch_end(self):
        self.heads.append(self.head.weight.detach().clone())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEED_ROLES)
def test_all_hidden_matrices_are_frozen_at_first(tmp_path, name):
    """The head is trained as by AdamW alone until they come."""
    make = partial(find_optimizer(name), lr=LR)
    module = Usual(make)
    run = trainer(tmp_path, max_epochs=4, callbacks=[BackboneFinetuning(2)])
    before = module.backbone[0].weight.detach().clone()
    run.fit(module, Data(batches=3))
    groups = run.optimizers[0].param_groups
    roles = {n: g["role"] for g in groups for n in g["param_names"]}
    whole = make(Usual(make))
    assert roles == {n: g["role"] for g in whole.param_groups for n in g["param_names"]}
    assert not torch.equal(module.backbone[0].weight, before)
    if name in ("Muon", "NorMuon"):
        alone = Usual(None)
        head = next(g for g in whole.param_groups if g["role"] == "head")
        settings = {key: head[key] for key in ("lr", "betas", "eps", "weight_decay")}
        alone.backbone.requires_grad_(False)
        alone.configure_optimizers = lambda: torch.optim.AdamW(
            [{"params": alone.head.weight}, {"params": alone.head.bias, "weight_decay": 0}],
            **settings,
        )
        trainer(tmp_path, max_epochs=2).fit(alone, Data(batches=3))
        torch.testing.assert_close(module.heads[1], alone.heads[1], rtol=1e-9, atol=1e-12)
