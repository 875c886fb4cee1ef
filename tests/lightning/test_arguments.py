"""Misuse of configure_optimizers is answered in one line."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import lit_optim
from lit_optim import SGD, AdamW
from lit_optim.compat import torch_schedules
from lit_optim.errors import UsageError
from lit_optim.lightning.lr_rule import linear as linear_rule
from lit_optim.param_groups import no_decay
from lit_optim.schedules.library import cosine_warmup
from tests.lightning.modules import Data, Mixed, Plain, trainer

P = nn.Parameter(torch.ones(2, 2))
MAKE = partial(AdamW, lr=0.1)


class Own(Plain):
    """As a user writes it; `given` are the arguments after the module."""

    def __init__(self, *given, **named):
        super().__init__()
        self.given, self.named = given, named

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, *self.given, **self.named)


OPTIMIZER = [
    (AdamW([P], lr=0.1), "got an instance of AdamW: give the class, as partial(AdamW, lr=...)"),
    (torch.optim.SGD([P], lr=0.1), "got an instance of SGD"),
    ("adamv", "unknown optimizer 'adamv'; did you mean"),
    (None, "got None"),
    (0.1, "got 0.1"),
    ([P], "got a list"),
    (cosine_warmup(), "got a Phases"),
    (cosine_warmup, "got the function cosine_warmup"),
    (StepLR, "got the class StepLR"),
    (lambda groups: None, "called with the param groups it gave None"),
    (lambda groups: AdamW, "called with the param groups it gave the class AdamW"),
]
SCHEDULER = [
    (cosine_warmup, "the function cosine_warmup, which is not called yet: write cosine_warmup()"),
    (partial(cosine_warmup, warmup=3), "not called yet: write cosine_warmup()"),
    (torch_schedules.StepLR, "not called yet: write StepLR()"),
    ("cosine_warmpu", "did you mean cosine_warmup"),
    (StepLR, "got the class StepLR; a torch scheduler is not taken, but those of lit_optim.compat"),
    (partial(StepLR, step_size=3), "got a partial of the class StepLR; a torch scheduler"),
    (StepLR(torch.optim.SGD([P], lr=0.1), 3), "got a StepLR; a torch scheduler"),
    (lambda optimizer: StepLR(optimizer, 3), "got the function <lambda>; a torch scheduler"),
    (0.1, "got 0.1"),
    ({"warmup": 3}, "got a dict"),
]
OTHERS = [
    ((cosine_warmup(), MAKE), {}, "they are in the wrong order"),
    ((cosine_warmup, AdamW), {}, "they are in the wrong order"),
    ((MAKE, None, [{"params": [P]}]), {}, "param_groups must be a function of the module"),
    ((MAKE, None, "no_decay"), {}, "or None, got 'no_decay'"),
    ((MAKE,), {"lr_rule": "linear"}, "or None, got 'linear'"),
    ((MAKE,), {"lr_rule": linear_rule}, "or None, got the function linear"),
    ((MAKE,), {"schedules": "lr"}, "schedules must map hyperparameters"),
]


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [((value,), {}, message) for value, message in OPTIMIZER]
    + [((MAKE, value), {}, message) for value, message in SCHEDULER]
    + OTHERS,
)
def test_an_argument_of_the_wrong_type_is_refused(tmp_path, given, named, message):
    with pytest.raises(UsageError) as error:
        trainer(tmp_path, max_steps=2).fit(Own(*given, **named), Data())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), "module must be a LightningModule, such as self, got a Linear"),
        (Plain, "module must be a LightningModule, such as self, got the class Plain"),
        (MAKE, "module must be a LightningModule, .*got a partial of the class AdamW"),
        (None, "module must be a LightningModule, .*got None"),
        (Plain(), "Plain is not attached to a trainer"),
    ],
)
def test_a_module_without_a_trainer_is_refused(module, message):
    with pytest.raises(UsageError, match=message):
        lit_optim.configure_optimizers(module, AdamW)


def test_the_mixin_says_the_same(tmp_path):
    with pytest.raises(UsageError, match="got an instance of AdamW"):
        trainer(tmp_path, max_steps=2).fit(Mixed(2, AdamW([P])), Data())
    with pytest.raises(UsageError, match="Mixed is not attached to a trainer"):
        Mixed(2, SGD).configure_optimizers()


@pytest.mark.parametrize(
    "given",
    [
        (AdamW,),
        ("adamw", "cosine_warmup"),
        (MAKE, None, None),
        (lambda groups: torch.optim.SGD(groups, lr=0.1), cosine_warmup()),
        (MAKE, torch_schedules.StepLR(3), no_decay),
        (MAKE, None, lambda module: [{"params": list(module.parameters())}]),
    ],
)
def test_what_is_allowed(tmp_path, given):
    module = Own(*given)
    trainer(tmp_path, max_steps=2).fit(module, Data())
    assert len(module.lrs) == 2
