"""Where another package computes the same, it is asked too; every parameter has a gradient."""

from __future__ import annotations

import pytest

from tests.optimizers.running import class_of, difference, gradients, parameters

LR = 1e-2
DECAY = {"weight_decay": 0.1}
WEIGHTING = {"warmup_steps": 7, "r": 0.5, "weight_lr_power": 1.5}
TINY = DECAY | {"eps": 1e-15}
PRODIGY = {"d0": 1e-2, "lr": 0.5, "beta3": 0.9, "d_coef": 1.5, "safeguard_warmup": True}
MATRICES, ALL = slice(2, 4), slice(0, 4)

#: arguments of theirs that ours has too, under another name or with another default
RENAMED = {"decouple": "decoupled_weight_decay"}
SHARED = {"decouple", "growth_rate"}

#: ours, theirs, what both are given, what only theirs is, which parameters
PEERS = [
    ("schedule_free_adamw", "schedulefree:AdamWScheduleFree", DECAY | WEIGHTING, {}, ALL),
    ("schedule_free_adamw", "schedulefree:AdamWScheduleFree", {"betas": (0.5, 0.9)}, {}, ALL),
    ("schedule_free_sgd", "schedulefree:SGDScheduleFree", DECAY | WEIGHTING, {}, ALL),
    ("adan", "optimi:Adan", DECAY | {"eps": 1e-3}, {}, ALL),
    ("stable_adamw", "optimi:StableAdamW", DECAY | {"eps": 1e-3, "betas": (0.5, 0.8)}, {}, ALL),
    # its eps is corrected for the bias of v
    ("mars", "pytorch_optimizer:MARS", TINY | {"gamma": 0.1, "lr_1d": 0.02}, {}, ALL),
    ("mars", "pytorch_optimizer:MARS", TINY | {"optimize_1d": True}, {}, ALL),
    # its count is one ahead of the paper's, and the first update decays
    ("adopt", "pytorch_optimizer:ADOPT", {}, {"clip_lambda": lambda t: (t - 1) ** 0.25}, ALL),
    # its lr is not within the momentum, and vectors have no ratio
    ("lars", "pytorch_optimizer:LARS", DECAY | {"lr": 2.0, "momentum": 0.5}, {}, MATRICES),
    ("signum", "pytorch_optimizer:SignSGD", DECAY | {"momentum": 0.5}, {}, ALL),
    ("prodigy", "prodigyopt:Prodigy", {"d0": 1e-3, "lr": 1.0}, {}, ALL),
    ("prodigy", "prodigyopt:Prodigy", DECAY | PRODIGY | {"use_bias_correction": True}, {}, ALL),
    ("prodigy", "prodigyopt:Prodigy", DECAY | PRODIGY, {"decouple": False}, ALL),
    ("prodigy", "prodigyopt:Prodigy", PRODIGY, {"growth_rate": 1.05}, ALL),
    # the lr stays as it is, so it does not matter that theirs is averaged
    ("laprop", "pytorch_optimizer:LaProp", {"betas": (0.5, 0.9)}, {}, ALL),
]


#: Settings may hold functions, whose text is another one in each process.
IDS = [f"{name}-{path}-{k}" for k, (name, path, *_) in enumerate(PEERS)]


@pytest.mark.parametrize(("name", "path", "settings", "theirs", "which"), PEERS, ids=IDS)
def test_equals_another_package(name, path, settings, theirs, which):
    package, _, cls = path.partition(":")
    make = getattr(pytest.importorskip(package), cls)
    ours, others = parameters()[which], parameters()[which]
    renamed = {RENAMED.get(key, key): value for key, value in theirs.items() if key in SHARED}
    mine = class_of(name)(ours, **{"lr": LR} | settings | renamed)
    plain = {} if package == "prodigyopt" else {"foreach": False}
    other = make(others, **plain, **{"lr": LR} | settings | theirs)
    averages = hasattr(other, "train")
    if averages:
        other.train()
    for step in range(5, 45):
        for params, optimizer in [(ours, mine), (others, other)]:
            gradients(params, step)
            optimizer.step()
        assert difference(ours, others) <= 1e-10
        if averages and step % 10 == 0:
            for mode in ("eval", "train"):
                getattr(mine, mode)()
                getattr(other, mode)()
                assert difference(ours, others) <= 1e-10
