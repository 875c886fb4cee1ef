"""Trainers that decide what is trained, as sentence-transformers', with our optimizers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim import hf
from tests.clients.conftest import import_client
from tests.clients.transformers_runs import gpt2, make_trainer, train

transformers = import_client("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")


def same(one, other):
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-9)


class Loss(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1).double()


class TrainsLoss(transformers.Trainer):
    """Decides what is trained, and its lrs, as the Trainer of sentence-transformers does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.manual_seed(0)
        self.loss = Loss()

    def compute_loss(self, model, inputs, *args, **kwargs):
        return self.loss.scale(model(**inputs).loss.double().view(1, 1)).square().sum()

    def get_optimizer_cls_and_kwargs(self, args, model=None):
        kind, values = super().get_optimizer_cls_and_kwargs(args, model)
        parts = {"model": self.model, "loss": self.loss}
        named = {f"{k}.{n}": p for k, part in parts.items() for n, p in part.named_parameters()}
        rest = {name: p for name, p in named.items() if "wte" not in name}
        decay = [p for name, p in rest.items() if "bias" not in name and "ln" not in name]
        values["optimizer_dict"] = [
            {"params": decay, "weight_decay": self.args.weight_decay},
            {
                "params": [p for p in rest.values() if all(p is not q for q in decay)],
                "weight_decay": 0.0,
            },
            {
                "params": [self.model.transformer.wte.weight],
                "lr": 1e-3,
                "weight_decay": self.args.weight_decay,
            },
        ]
        return kind, values


class DecaysBiases(transformers.Trainer):
    """Decides what has weight decay."""

    def get_decay_parameter_names(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith("bias")]


@pytest.mark.parametrize("kind", [TrainsLoss, DecaysBiases])
def test_a_trainer_that_decides_what_is_trained(kind, tmp_path):
    given = {"learning_rate": 0.01, "weight_decay": 0.3}
    theirs, their_lrs = train(tmp_path, kind=kind, model=gpt2().double(), given=given)
    own = type("Own", (hf.TrainerMixin, kind), {})
    ours, lrs = train(tmp_path, kind=own, model=gpt2().double(), given=given, optimizer="adamw")
    assert type(ours.optimizer.optimizer) is lit_optim.AdamW
    assert lrs == their_lrs
    same(ours.model, theirs.model)
    if kind is TrainsLoss:
        same(ours.loss, theirs.loss)
        assert {g["initial_lr"] for g in ours.optimizer.param_groups} == {0.01, 1e-3}


@pytest.mark.parametrize("groups", ["transformers", "single"])
def test_the_parameters_of_a_loss_have_roles(groups, tmp_path):
    """The last linear layer is that of the loss."""
    own = type("Own", (hf.TrainerMixin, TrainsLoss), {})
    chosen = {"optimizer": partial(lit_optim.Muon, weight_decay=0.7), "param_groups": groups}
    trainer = make_trainer(tmp_path, kind=own, **chosen)
    made = trainer.create_optimizer()
    about = {p: group for group in made.param_groups for p in group["params"]}
    assert about.keys() == {*trainer.model.parameters(), *trainer.loss.parameters()}
    assert about[trainer.loss.scale.weight]["role"] == "head"
    hidden = about[trainer.model.transformer.h[0].attn.c_attn.weight]
    assert (hidden["role"], hidden["weight_decay"]) == ("hidden", 0.7)
    assert trainer.args.weight_decay == 0
