"""What `TrainerMixin` takes as optimizer, schedule and param groups, in every form, and refuses."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim import hf, schedules
from lit_optim.errors import UsageError
from lit_optim.wrappers import Wrapped
from tests.clients.conftest import import_client
from tests.clients.transformers_runs import STEPS, Text, cosine, gpt2, make_trainer

transformers = import_client("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "optimizer",
    [
        "muon",
        lit_optim.Muon,
        partial(lit_optim.Muon, lr=0.02),
        lambda groups: lit_optim.Muon(groups, lr=0.02),
        Wrapped(lit_optim.Muon, lit_optim.Ema),
    ],
    ids=["name", "class", "partial", "function", "wrapped"],
)
def test_every_form_of_an_optimizer(optimizer, tmp_path):
    trainer = make_trainer(tmp_path, given={"learning_rate": 0.02}, optimizer=optimizer)
    made = trainer.create_optimizer()
    assert type(getattr(made, "base", made)) is lit_optim.Muon
    assert {group["lr"] for group in made.param_groups if group["role"] == "hidden"} == {0.02}


def test_optimizer_cls_and_kwargs(tmp_path):
    given = lit_optim.Muon, {"lr": 0.03}
    made = make_trainer(tmp_path, optimizer_cls_and_kwargs=given).create_optimizer()
    assert {group["lr"] for group in made.param_groups if group["role"] == "hidden"} == {0.03}


def test_weight_decay_of_training_arguments(tmp_path):
    """Also that of Muon's AdamW part; what the optimizer is given wins."""
    trainer = make_trainer(tmp_path, given={"weight_decay": 0.3}, optimizer=lit_optim.Muon)
    made = trainer.create_optimizer()
    decayed = {
        name: group["weight_decay"]
        for group in made.param_groups
        for name in group["param_names"]
        if group["name"].startswith("decay")
    }
    theirs = set(trainer.get_decay_parameter_names(trainer.model))
    names = {name for name, _ in trainer.model.named_parameters()}
    assert set(decayed) == theirs & names
    assert set(decayed.values()) == {0.3}
    own = make_trainer(tmp_path, optimizer=partial(lit_optim.AdamW, weight_decay=0.7))
    decays = {group["weight_decay"] for group in own.create_optimizer().param_groups}
    assert decays == {0.7, 0.0}


def test_param_groups_by_name(tmp_path):
    """The lr of the embeddings is below that of the block, and this one below that of the head."""
    chosen = {"optimizer": partial(lit_optim.AdamW, lr=1.0), "param_groups": "layer_decay"}
    trainer = make_trainer(tmp_path, **chosen)
    made = trainer.create_optimizer()
    lrs = {p: group["lr"] for group in made.param_groups for p in group["params"]}
    parts = trainer.model.transformer
    assert lrs[parts.wte.weight] < lrs[parts.h[0].attn.c_attn.weight] <= lrs[parts.ln_f.weight] == 1


StepLR = partial(torch.optim.lr_scheduler.StepLR, step_size=3)
WARMUP = [0.1 * cosine(t, 4) for t in range(STEPS)]
STAIRS = [0.1 * 0.1 ** ((t + 1) // 3) for t in range(-1, STEPS - 1)]


@pytest.mark.parametrize(
    ("schedule", "given", "expected"),
    [
        (schedules.cosine_warmup, {"warmup_steps": 4}, WARMUP),
        (partial(schedules.cosine_warmup, "50%"), {"warmup_steps": 1}, WARMUP),
        (partial(schedules.cosine_warmup, warmup="50%"), {"warmup_steps": 1}, WARMUP),
        ({"name": "cosine_warmup", "warmup": "50%"}, {}, WARMUP),
        (partial(lit_optim.lr_schedulers.cosine_warmup, warmup="50%"), {}, WARMUP),
        (lambda optimizer: schedules.cosine_warmup("50%"), {}, WARMUP),
        (StepLR, {}, STAIRS),
        (lambda optimizer: StepLR(optimizer), {}, STAIRS),
    ],
    ids=["uncalled", "partial", "keyword", "config", "lr_schedulers", "made", "torch", "function"],
)
def test_every_form_of_a_schedule(schedule, given, expected, tmp_path):
    given = {"learning_rate": 0.1} | given
    trainer = make_trainer(tmp_path, given=given, optimizer={"name": "sgd"}, schedule=schedule)
    trainer.create_optimizer_and_scheduler(STEPS)
    lrs = []
    for p in trainer.model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(STEPS):
        lrs.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert lrs == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_an_optimizer_by_name_and_values(tmp_path):
    given = {"learning_rate": 0.3, "weight_decay": 0.2}
    chosen = {"name": "adamw", "lr": 0.1}
    made = make_trainer(tmp_path, given=given, optimizer=chosen).create_optimizer()
    assert type(made) is lit_optim.AdamW
    assert {group["lr"] for group in made.param_groups} == {0.1}
    assert {group["weight_decay"] for group in made.param_groups} == {0.2, 0.0}


def test_names_in_training_arguments(tmp_path):
    """The command line of HfArgumentParser."""
    parser = transformers.HfArgumentParser(hf.TrainingArguments)
    argv = ["--output_dir", str(tmp_path), "--optimizer", "muon", "--schedule", "wsd"]
    argv += ["--optim_args", "lr=0.02, nesterov=false, adamw_betas=(0.8, 0.9)"]
    argv += ["--lr_scheduler_kwargs", '{"cooldown": "50%"}', "--use_cpu", "--report_to", "none"]
    (args,) = parser.parse_args_into_dataclasses(argv)
    trainer = hf.Trainer(gpt2(), args, train_dataset=Text())
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is lit_optim.Muon
    hidden = next(group for group in optimizer.param_groups if group["role"] == "hidden")
    assert (hidden["lr"], hidden["nesterov"]) == (0.02, False)
    norm = next(group for group in optimizer.param_groups if group["role"] == "norm")
    assert norm["betas"] == (0.8, 0.9)
    scheduler = trainer.create_scheduler(100)
    assert scheduler.lrs_at(48)[0] == scheduler.lrs_at(10)[0] > scheduler.lrs_at(60)[0]
    torch.save(args, tmp_path / "args.bin")
    assert torch.load(tmp_path / "args.bin", weights_only=False).optimizer == "muon"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"optimizer": "moun"}, "unknown optimizer 'moun'; did you mean muon"),
        ({"optimizer": lit_optim.AdamW([nn.Parameter(torch.ones(1))])}, "goes to optimizers="),
        ({"optimizer": 3}, "optimizer must be an optimizer class"),
        ({"optimizer": "adamw", "schedule": "cosin"}, "unknown schedule 'cosin'; did you mean"),
        ({"optimizer": {"name": "adamw", "lrr": 1}}, "AdamW takes no lrr; did you mean lr"),
        ({"optimizer": {"lr": 1}}, "without a name"),
        (
            {"schedule": "wsd", "given": {"warmup_steps": STEPS + 1}},
            f"warmup_steps={STEPS + 1}: {STEPS + 1} steps, but the run has {STEPS}",
        ),
        ({"optimizer": lambda groups: 3}, "called with the param groups it gave 3"),
        ({"optimizer": schedules.cosine()}, "optimizer must be an optimizer class"),
        ({"schedule": torch.optim.lr_scheduler.StepLR}, "give a partial with its arguments"),
        ({"schedule": torch.optim.SGD}, "schedule must be a schedule, such as"),
        ({"schedule": lambda optimizer: 3}, "gave 3: it must give a scheduler"),
        ({"schedule": {"warmup": 3}}, "schedule must be a schedule, such as"),
        ({"param_groups": "layer_decy"}, "got 'layer_decy'; did you mean layer_decay"),
        ({"param_groups": 3}, "param_groups must be a function of the model"),
        ({"optimizer": "sgd", "schedule": "plateau"}, "nothing is evaluated: set eval_strategy"),
        ({"optimizer": "lbfgs"}, "evaluates the loss again within a step, which transformers'"),
        ({"optimizer": "adamw", "given": {"optim_args": "betos=3"}}, "did you mean betas"),
        ({"optimizer": "adamw", "given": {"optim_args": "betas"}}, "optim_args must look like"),
        (
            {"optimizer": "adamw", "optimizers": ("x", None)},
            "optimizer and optimizers: give only one",
        ),
    ],
)
def test_a_mistake_is_one_line(kwargs, message, tmp_path):
    with pytest.raises(UsageError) as error:
        make_trainer(tmp_path, **kwargs).create_optimizer_and_scheduler(STEPS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_lr_that_is_meant_for_adamw_is_named(tmp_path, caplog):
    """5e-5, the default of TrainingArguments, would train nothing."""
    make_trainer(tmp_path, optimizer="muon").create_optimizer()
    assert "Muon: learning_rate=5e-05 of TrainingArguments is far from 0.003 to 1" in caplog.text
    caplog.clear()
    make_trainer(tmp_path, optimizer="adamw").create_optimizer()
    assert caplog.text == ""
