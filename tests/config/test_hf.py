"""TrainingArguments into our overrides; what is not here is refused in one line."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from transformers import TrainingArguments, optimization
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.compat import transformers_arguments as hf
from lit_optim.compat.transformers_tables import NEAREST, OPTIMS, SCHEDULES, Arguments
from lit_optim.config.composing import compose_config
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from tests.sampling import sample

#: what some schedules must be given
NEEDS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-6},
    "warmup_stable_decay": {"num_decay_steps": 10},
    "greedy": {"min_lr": 1e-6},  # its own, 1e-3, is above the Trainer's lr
}
ADAMW = [
    "optimizer=adamw",
    "optimizer.lr=5e-05",
    "optimizer.betas=[0.9,0.999]",
    "optimizer.eps=1e-08",
    "optimizer.weight_decay=0.0",
]
LINEAR = ["scheduler=linear_warmup", "scheduler.warmup=0", "scheduler.step_alignment=start"]
GROUPS = ["param_groups=transformers", "trainer.gradient_clip_val=1.0"]


def translated(**arguments):
    return dict(line.split("=", 1) for line in hf.translate(arguments))


def test_nothing_given_is_the_defaults():
    assert hf.translate({}) == ADAMW + LINEAR + GROUPS


def test_defaults_are_transformers():
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    for field in dataclasses.fields(Arguments):
        if field.name == "optim":
            assert OPTIMS[theirs["optim"]] == OPTIMS[field.default]
        elif field.name in theirs:  # the rest is of version 4
            assert field.default == theirs[field.name], field.name


@pytest.mark.parametrize("name", [member.value for member in OptimizerNames])
def test_every_optimizer_is_here_or_refused(name):
    if name in OPTIMS:
        lines = hf.translate({"optim": name})
        assert lines[0] == f"optimizer={OPTIMS[name]}"
        assert prepare_command_line([f"hf.optim={name}"]).argv
        return
    with pytest.raises(UsageError) as error:
        hf.translate({"optim": name})
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(
        f"hf.optim={name} is not available; use hf.optim={NEAREST[name][0]}, "
    )
    assert NEAREST[name][0] in OPTIMS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lion_32bit", ", or optimizer=lion"),
        ("paged_lion_8bit", ", or optimizer=lion"),
        ("ademamix", ", or optimizer=ademamix"),
        ("paged_ademamix_32bit", ", or optimizer=ademamix"),
        ("adamw_bnb_8bit", "use hf.optim=adamw_torch, with optimizer.state_dtype=int8"),
        ("paged_adamw_8bit", "use hf.optim=adamw_torch, with optimizer.state_dtype=int8"),
        ("paged_adamw_32bit", "use hf.optim=adamw_torch, without paging"),
        ("adamw_torch_4bit", "use hf.optim=adamw_torch, with its state in 32 bits"),
    ],
)
def test_a_refusal_names_what_is_here_under_a_name_of_ours(name, said):
    with pytest.raises(UsageError) as error:
        hf.translate({"optim": name})
    assert str(error.value).endswith(said)


def test_what_a_refusal_says_works():
    cfg = compose_config(
        prepare_command_line(["hf.optim=adamw_torch", "optimizer.state_dtype=int8"]).argv
    )
    assert cfg.optimizer.state_dtype == "int8"
    cfg = compose_config(prepare_command_line(["optimizer=lion", "hf.warmup_steps=5"]).argv)
    assert cfg.hydra.runtime.choices.optimizer == "lion"


@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ("hf.warmup_steps=600 trainer.max_steps=500", "scheduler.warmup", "but the run has 500"),
        ("hf.warmup_steps=600 hf.max_steps=500", "scheduler.warmup", "but the run has 500"),
    ],
)
def test_a_mistake_in_what_hf_stands_for_names_hf(line, key, said):
    with pytest.raises(UsageError) as error:
        prepare_command_line([*line.split(), "data=digits"])
    assert str(error.value) == f"{key}=600: 600 steps, {said} (hf stands for {key}=600)"


def test_no_optimizer_is_named_twice():
    assert not OPTIMS.keys() & NEAREST.keys()
    assert set(OPTIMS.values()) <= groups()["optimizer"].keys()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [member.value for member in SchedulerType])
@pytest.mark.parametrize("warmup", sample(["0", "100", "0.1"], 1))
def test_every_schedule_is_here(name, warmup):
    typed = ", ".join(f"{key}: {value}" for key, value in NEEDS.get(name, {}).items())
    argv = [f"hf.lr_scheduler_type={name}", f"hf.lr_scheduler_kwargs={{{typed}}}"]
    cfg = compose_config(prepare_command_line([*argv, f"hf.warmup_steps={warmup}"]).argv)
    ours = cfg.hydra.runtime.choices.scheduler
    assert ours == SCHEDULES[name].ours
    assert ours == name or cfg.scheduler.get("step_alignment") == "start"


def test_a_floor_above_the_lr_is_refused():
    """transformers' greedy would raise the lr twentyfold when it means to lower it."""
    with pytest.raises(UsageError, match=r"min_lr=0\.001 is above the optimizer's lr, 5e-05"):
        prepare_command_line(["hf.lr_scheduler_type=greedy"])


@pytest.mark.parametrize("name", [member.value for member in SchedulerType])
def test_every_argument_of_a_schedule_is_known(name):
    functions = optimization.TYPE_TO_SCHEDULER_FUNCTION
    theirs = {
        "reduce_lr_on_plateau": optimization.ReduceLROnPlateau,
        "greedy": optimization.GreedyLR,
    }.get(name, functions[name])
    common = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "verbose"}
    row = SCHEDULES[name]
    assert set(row.arguments) == inspect.signature(theirs).parameters.keys() - common
    given = {"lr_scheduler_type": name, "lr_scheduler_kwargs": {"no_such": 1}}
    if row.ignores:
        assert hf.translate(given) == hf.translate(given | {"lr_scheduler_kwargs": None})
        assert "lr_scheduler_kwargs (without effect" in hf.describe_untranslated(given)
    else:
        with pytest.raises(UsageError, match=f"no_such is not an argument of {name}"):
            hf.translate(given)


def test_optimizers():
    sgd = translated(optim="sgd", learning_rate=0.1, optim_args="momentum=0.9, nesterov=True")
    assert sgd["optimizer"] == "sgd"
    assert sgd["optimizer.momentum"] == "0.9"
    assert sgd["optimizer.nesterov"] == "true"
    assert "optimizer.betas" not in sgd
    assert translated(optim="sgd", optim_args={"momentum": 0.9})["optimizer.momentum"] == "0.9"
    assert translated(optim="rmsprop", optim_args="centered=no")["optimizer.centered"] == "false"
    adafactor = translated(adafactor=True)
    assert adafactor["optimizer"] == "adafactor_hf"
    assert adafactor["optimizer.relative_step"] == adafactor["optimizer.scale_parameter"] == "false"
    assert adafactor == translated(optim="adafactor")
    adamw = translated(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, weight_decay=0.1)
    assert adamw["optimizer.betas"] == "[0.8,0.95]"
    assert adamw["optimizer.eps"] == "1e-06"
    assert adamw["optimizer.weight_decay"] == "0.1"
    for none in (0, 0.0, None):  # version 4 takes a null for none too
        assert translated(max_grad_norm=none)["trainer.gradient_clip_val"] == "null"


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ({"warmup_steps": 100}, "warmup", "100"),
        ({"warmup_steps": 7.9}, "warmup", "7"),
        ({"warmup_steps": 0.03}, "warmup", "3%+"),
        ({"warmup_ratio": 1 / 3}, "warmup", "33.33333333333333%+"),
        ({"warmup_ratio": 0.07}, "warmup", "7%+"),
        ({"warmup_ratio": 0.1}, "warmup", "10%+"),
        ({"warmup_ratio": 0.07, "warmup_steps": 9}, "warmup", "9"),
        ({"warmup_ratio": 0.07, "max_steps": 110}, "warmup", "8"),
        ({"warmup_steps": 0.03, "lr_scheduler_type": "polynomial"}, "min_lr", "1e-07"),
        (
            {"warmup_steps": 0.03, "lr_scheduler_type": "constant_with_warmup"},
            "num_warmup_steps",
            "0.03",
        ),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 1}'},
            "min_lr_rate",
            "0.0",
        ),
        (
            {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 50}},
            "timescale",
            "50",
        ),
        ({"lr_scheduler_type": "greedy"}, "min_lr", "0.001"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "monitor", "val/loss"),
        (
            {"lr_scheduler_type": "greedy", "metric_for_best_model": "eval_acc"},
            "monitor",
            "val/acc",
        ),
    ],
    ids=str,
)
def test_schedules(arguments, key, value):
    assert translated(**arguments)[f"scheduler.{key}"] == value


def test_the_run():
    steps = translated(max_steps=100, num_train_epochs=3, gradient_accumulation_steps=4, seed=7)
    assert steps["trainer.max_steps"] == "100"
    assert "trainer.max_epochs" not in steps
    assert steps["trainer.accumulate_grad_batches"] == "4"
    assert steps["seed"] == "7"
    assert translated(max_steps=-1, num_train_epochs=3.0)["trainer.max_epochs"] == "3"
    assert translated(bf16=True)["trainer.precision"] == "bf16-mixed"
    assert translated(fp16=True)["trainer.precision"] == "16-mixed"


def test_what_transformers_ignores_is_told():
    ignored = {"lr_scheduler_type": "constant", "warmup_steps": 9, "optim": "sgd"}
    ignored |= {"adam_beta1": 0.5, "optim_args": "weight_decay=1"}
    assert hf.describe_untranslated(ignored) == ", ".join(
        f"{key} (without effect in transformers too)"
        for key in ("adam_beta1", "optim_args.weight_decay", "warmup_steps")
    )
