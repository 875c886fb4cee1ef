"""Every YAML, by being there: it composes, its keys are explained, its defaults are the class's."""

from __future__ import annotations

import inspect
import re

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import check_config
from lit_optim.config.composing import compose_config
from lit_optim.config.places import conf_dir, groups, use_conf_dir
from lit_optim.config.settings import Settings

TORCHS = "optimizer._target_=torch.optim.AdamW"
CHOICES = [(group, name) for group, names in groups().items() for name in names]
#: what a choice needs beside itself
NEEDS = {
    ("model", "custom"): ["++model._target_=lit_optim.tasks.classifiers.CNN"],
    ("optimizer", "custom"): [TORCHS],
    ("data", "custom"): ["++data._target_=lit_optim.tasks.classification.Digits"],
}


@pytest.mark.sampled(40)
@pytest.mark.parametrize(("group", "name"), CHOICES, ids=str)
def test_every_choice_composes_and_is_valid(group, name):
    cfg = compose_config([f"{group}={name}", *NEEDS.get((group, name), [])])
    check_config(cfg)
    if group != "preset":  # it is chosen by what it is for
        assert cfg.hydra.runtime.choices[group] == name


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=str)
def test_every_key_is_explained(group, name):
    if group in ("preset", "experiment", "debug") or (group == "trainer" and name != "cpu"):
        return  # they choose among keys that are explained elsewhere
    for line in groups()[group][name].read_text("utf-8").splitlines():
        if re.match(r" *\w+: ?\S", line) and not re.match(r"_target_: l|_partial_:", line.strip()):
            assert " # " in line, line


def test_every_setting_is_explained_and_declared():
    lines = (conf_dir() / "train.yaml").read_text("utf-8").splitlines()
    keys = {line.split(":")[0] for line in lines if re.match(r"\w+:( .*)? # ", line)}
    assert keys == inspect.signature(Settings).parameters.keys()


def with_own_yaml(target):
    """The arguments of an optimizer that are in a YAML of options, not in its own."""
    from lit_optim.optimizers.base.matrixwise import Matrixwise
    from lit_optim.optimizers.base.options import OPTIONS

    if not target.startswith("lit_optim.optimizers."):
        return ()
    is_ours = "executor" in inspect.signature(get_object(target)).parameters
    return {*OPTIONS, *Matrixwise.fields} if is_ours else ()


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g, n in CHOICES if g in ("optimizer", "model", "data") and n != "custom"],
    ids=str,
)
def test_defaults_equal_the_constructors(group, name):
    node = OmegaConf.load(groups()[group][name])
    parameters = inspect.signature(get_object(node._target_)).parameters
    expected = {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("params", "self", *with_own_yaml(node._target_))
    }
    written = OmegaConf.to_container(node)
    written.pop("_target_")
    written.pop("_partial_", None)  # for other Hydra apps
    written.pop("defaults", None)  # what else is chosen with it
    assert written.keys() == expected.keys()  # every accepted key stands in the YAML
    for key, value in written.items():
        if isinstance(value, str) and value.startswith("${"):
            continue
        default = expected[key]
        if default is inspect.Parameter.empty:
            assert value is None, key  # the data fills it in
        else:
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_an_optimizer_may_choose_the_groups():
    def chosen(*typed):
        cfg = compose_config(["optimizer=adam_weight_decay", *typed])
        name = cfg.hydra.runtime.choices.param_groups
        assert cfg.param_groups._target_.endswith(f".{name}")
        check_config(cfg)
        return name

    assert chosen() == "single"
    assert chosen("param_groups=no_decay") == "no_decay"
    assert chosen("param_groups=transformers") == "transformers"
    assert chosen("experiment=mnist1d_paper", "optimizer=adam_weight_decay") == "single"


def test_a_schedule_follows_the_metric_of_the_run_unless_it_names_another_one():
    schedules = [name for name in groups()["scheduler"] if "monitor" in keys_of("scheduler", name)]
    assert len(schedules) >= 4
    for name in schedules:
        cfg = compose_config([f"scheduler={name}", "monitor=val/acc", "mode=max"])
        assert (cfg.scheduler.monitor, cfg.scheduler.mode) == ("val/acc", "max")
    others = ["scheduler.monitor=loss", "scheduler.mode=min"]
    cfg = compose_config(["scheduler=plateau", "monitor=val/acc", "mode=max", *others])
    assert (cfg.scheduler.monitor, cfg.scheduler.mode) == ("loss", "min")


def keys_of(group, name):
    return OmegaConf.load(groups()[group][name]).keys()


def test_options_of_elementwise_optimizers_are_what_the_yaml_says():
    from lit_optim.optimizers.base.options import OPTIONS

    written = OmegaConf.load(conf_dir() / "optimizer/options/elementwise.yaml")
    assert written == OPTIONS
    assert compose_config(["optimizer=adamw"]).optimizer.executor == "auto"


def test_data_may_bring_its_model_along(tmp_path):
    assert compose_config(["data=char_lm"]).model._target_.endswith(".GPT")
    assert compose_config(["data=char_lm", "model=mlp"]).model._target_.endswith(".MLP")
    assert "\nmodel=gpt #" in prepare_command_line(["data=char_lm", "--help"]).text
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [override /data: char_lm, override /model: gru]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    use_conf_dir(str(tmp_path))
    try:
        assert compose_config(["experiment=mine"]).model._target_.endswith(".GRU")
    finally:
        use_conf_dir(None)
