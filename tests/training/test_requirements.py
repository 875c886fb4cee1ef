"""The requirements of optimizers are checked before the first step."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from lit_optim import LBFGS, AdamW, Lamb, ScheduleFreeSGD, SparseAdam
from lit_optim.errors import UsageError
from lit_optim.reports.listing import entries
from lit_optim.requirements import REQUIREMENTS
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.formula_schedules import lambda_
from lit_optim.schedules.library import constant, constant_warmup, cosine_warmup
from lit_optim.schedules.metric_schedules import plateau
from lit_optim.training.requirements import check_requirements, find_warnings
from tests.lightning.modules import Data, Plain, attach, trainer
from tests.optimizers.running import class_of


@pytest.mark.parametrize("entry", entries("optimizer"), ids=lambda entry: entry.name)
def test_what_is_read_is_what_the_class_says(entry):
    made = class_of(entry.name)
    assert entry.requirements == made.requirements
    assert entry.lr_range == made.lr_range
    assert entry.requirements or made.takes_sparse
    assert set(entry.requirements) <= set(REQUIREMENTS)
    low, high = entry.lr_range
    assert 10 <= high / low <= 1000.1


@pytest.mark.parametrize(
    ("make", "schedule", "warned"),
    [
        (ScheduleFreeSGD, cosine_warmup(), True),
        (ScheduleFreeSGD, constant_warmup(), False),
        (ScheduleFreeSGD, constant(), False),
        (ScheduleFreeSGD, plateau(monitor="train/loss"), False),
        (ScheduleFreeSGD, None, False),
        (AdamW, cosine_warmup(), False),
    ],
    ids=["falls", "warms up", "constant", "not known", "none", "needs nothing"],
)
def test_a_schedule_that_falls_is_warned_of_once(make, schedule, warned, tmp_path, caplog):
    module = Plain()
    curve = None if schedule is None else schedule.curve(Horizon(20))
    run = trainer(tmp_path, max_steps=20)
    attach(module, make, None)
    run.fit(module, Data())
    caplog.clear()  # what training has said is not asked
    with caplog.at_level(logging.WARNING, "lit_optim"):
        check_requirements(module, run.optimizers[0], curve)
    said = [record.getMessage() for record in caplog.records if record.name == "lit_optim"]
    assert len(said) == warned
    assert not said or said[0].startswith("ScheduleFreeSGD averages the weights")
    assert "\n" not in "".join(said)


def test_lrs_that_mean_something_else_are_warned_of():
    groups = [{"lr": 1.0}, {"lr": 0.5, "initial_lr": 0.5}]
    one, scale = ("one_lr",), ("lr_of_1",)
    assert "differ in lr (0.5, 1)" in find_warnings(one, "Prodigy", groups, None)[0]
    assert find_warnings(one, "Prodigy", groups[:1], None) == []
    assert find_warnings(scale, "Prodigy", groups, None) == []
    (said,) = find_warnings(scale, "Prodigy", [{"lr": 1e-3}], None)
    assert "lr=0.001" in said
    assert "set it to 1" in said


def test_a_closure_is_refused_with_gradient_accumulation(tmp_path):
    whole = partial(LBFGS, max_iter=2)
    with pytest.raises(UsageError, match="would see only the last of 4 accumulated batches"):
        trainer(tmp_path, max_steps=2, accumulate_grad_batches=4).fit(
            attach(Plain(), whole, None, _together), Data()
        )
    trainer(tmp_path, max_steps=2).fit(attach(Plain(), whole, None, _together), Data())


def _together(module):
    return [{"params": list(module.parameters()), "name": "all"}]


def test_an_optimizer_of_whole_tensors_is_refused_where_fsdp1_flattens_them(tmp_path, monkeypatch):
    module = attach(Plain(), Lamb)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, Data())
    monkeypatch.setattr(type(run), "strategy", FSDPStrategy())
    with pytest.raises(UsageError, match="Lamb looks at whole tensors, which FSDP1"):
        check_requirements(module, Lamb(module.parameters()), None)


def test_optimizers_of_other_packages_have_no_requirements(tmp_path):
    module = attach(Plain(), partial(torch.optim.SGD, lr=0.1), cosine_warmup())
    run = trainer(tmp_path, max_steps=3)
    run.fit(module, Data())
    assert run.global_step == 3


def test_a_layer_with_sparse_gradients_is_named(tmp_path):
    module = Plain()
    module.words = torch.nn.Embedding(5, 3, sparse=True)
    line = "AdamW does not support sparse gradients, and the layer words has them: set sparse=False"
    with pytest.raises(UsageError, match=line):
        trainer(tmp_path, max_steps=1).fit(attach(module), Data())
    trainer(tmp_path, max_steps=1).fit(attach(module, SparseAdam), Data())
    module.words.requires_grad_(False)  # it has no gradients at all
    trainer(tmp_path, max_steps=1).fit(attach(module), Data())


def test_an_lr_that_stays_0_is_warned_of(tmp_path, caplog):
    still = lambda_(expr="0")
    with caplog.at_level(logging.WARNING, "lit_optim"):
        trainer(tmp_path, max_steps=7).fit(attach(Plain(), scheduler=still), Data())
    assert "the lr is 0 in every update: nothing will be learned" in caplog.messages


def test_torchs_fused_steps_let_gradients_be_clipped(tmp_path, caplog):
    first, made = Plain().state_dict(), []
    for how in ("fused", "foreach"):
        module = Plain()
        module.load_state_dict(first)
        make = partial(torch.optim.AdamW, lr=0.1, **{how: True})
        run = trainer(tmp_path, max_steps=5, precision="bf16-mixed", gradient_clip_val=1e-3)
        with caplog.at_level(logging.INFO, "lit_optim"):
            run.fit(attach(module, make), Data())
        made.append(module.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in first)
    [told] = [line for line in caplog.messages if "cannot be clipped" in line]
    assert told.startswith("AdamW: fused=true unscales the gradients itself")
