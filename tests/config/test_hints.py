"""A key that there is not: which one was meant, over the whole configuration."""

from __future__ import annotations

import pytest

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.hints import ALIASES, KEY_BY_ALIAS, dotted_keys, suggest_other_group
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.moved_names import MOVED_KEYS
from lit_optim.search.settings import default_settings

#: What people try, and what they mean.
TRIED = {
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "max_steps": "trainer.max_steps",
    "lr": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "bs": "data.batch_size",
    "batch_size": "data.batch_size",
    "wd": "optimizer.weight_decay",
    "weight_decay": "optimizer.weight_decay",
    "betas": "optimizer.betas",
    "warmup": "scheduler.warmup",
    "gpus": "trainer.devices",
    "devices": "trainer.devices",
    "precision": "trainer.precision",
    "accumulate": "trainer.accumulate_grad_batches",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "max_grad_norm": "trainer.gradient_clip_val",
    "num_train_epochs": "trainer.max_epochs",
    "min_lr": "scheduler.min_lr_ratio",
    "filename": "callbacks.checkpoint.filename",
    "optimizer.warmup": "scheduler.warmup",
    "model.lr": "optimizer.lr",
    "Epochs": "trainer.max_epochs",
    "optimizer.learning_rate": "optimizer.lr",
    "data.bs": "data.batch_size",
    "random_seed": "seed",
    "max_stepz": "trainer.max_steps",
    "wieght_decay": "optimizer.weight_decay",
    "optmizer": "optim",
}


@pytest.mark.parametrize("key", TRIED)
def test_what_people_try(key):
    with pytest.raises(UsageError) as refused:
        prepare_command_line([f"{key}=5"])
    assert str(refused.value).startswith(f"unknown key {key}; did you mean {TRIED[key]}")


def known():
    plain = to_plain(compose_config([]))
    return plain, dotted_keys(plain)


PLAIN, KEYS = known()
LEAVES = [
    key for key in KEYS
    if "." in key and key.split(".")[0] not in ("schedules", "resume") and "_target_" not in key
]  # fmt: skip


@pytest.mark.sampled(20)
@pytest.mark.parametrize("key", LEAVES)
def test_any_key_is_found_by_its_last_part(key):
    last = key.rpartition(".")[2]
    if last in PLAIN or last in MOVED_KEYS:
        return  # it is a key at the top as well, or was one
    with pytest.raises(UsageError) as refused:
        prepare_command_line([f"+{last}=5"])
    others = [k for k in KEYS if k.rpartition(".")[2] == last]
    assert any(k in str(refused.value) for k in others)


def test_the_aliases_lead_to_keys_that_there_are():
    more = {"hydra.run.dir", "trainer.max_time", *(f"search.{key}" for key in default_settings())}
    assert set(ALIASES) <= {*KEYS, *groups(), *more}
    assert not {alias for alias in KEY_BY_ALIAS if alias in PLAIN} - {"resume"}


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("scheduler=none", "scheduler.warmup"),
        ("scheduler=step", "scheduler.cooldown"),
        ("scheduler=none", "scheduler.min_lr_ratio"),
    ],
)
def test_a_key_is_not_suggested_for_itself_or_for_what_cannot_help(choice, key):
    with pytest.raises(UsageError) as refused:
        prepare_command_line([choice, f"{key}=5%"])
    assert str(refused.value).startswith(f"unknown key {key}")
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("key", ALIASES)
def test_no_key_is_suggested_for_itself(key):
    assert suggest_other_group(key, KEYS) != f"; did you mean {key}?"


def test_nothing_is_made_up():
    with pytest.raises(UsageError, match=r"^unknown key qqqq$"):
        prepare_command_line(["qqqq=3"])
