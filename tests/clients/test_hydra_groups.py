"""Another Hydra app takes our groups from pkg://lit_optim.hydra."""

from __future__ import annotations

import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lit_optim
from lit_optim.config.places import CUSTOM, conf_dir, groups
from lit_optim.errors import UsageError
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon

GROUPS = ("optimizer", "param_groups", "scheduler", "wrapper")
SEARCH_PATH = {"searchpath": ["pkg://lit_optim.hydra"]}
FILES = [(group, name, path) for group in GROUPS for name, path in groups()[group].items()]
#: What instantiate makes of lists and mappings: OmegaConf's own, or Python's.
CONVERSIONS = (None, "none", "partial", "all", "object")


def source():
    return ImportlibResourcesConfigSource("test", "pkg://lit_optim.hydra")


def app(tmp_path, overrides=(), **config):
    """The configuration of an app of someone else, in a folder of its own."""
    OmegaConf.save({"hydra": SEARCH_PATH} | config, tmp_path / "config.yaml")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Every choice, composed in another app: {"optimizer": {"adamw": ...}, ...}."""
    chosen = [{f"{group}@{group}.{name}": name} for group, name, _ in FILES if name != CUSTOM]
    cfg = app(tmp_path_factory.mktemp("app"), defaults=["_self_", *chosen])
    assert set(cfg) == set(GROUPS)
    return cfg


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def is_plain(value):
    """Whether a value, or anything in it, is none of OmegaConf's."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    inner = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
    return not type(value).__module__.startswith("omegaconf") and all(map(is_plain, inner.values()))


def test_no_file_refers_to_what_is_outside_of_its_group():
    """Those with options too, which other files include."""
    for group in GROUPS:
        for path in (conf_dir() / group).rglob("*.yaml"):
            text = path.read_text("utf-8")
            assert "${" not in text, path
            assert "override" not in text, path
            assert not re.search(r"^  - (/|\.\.)", text, re.M), path


def test_four_groups_and_nothing_else():
    assert source().available()
    assert source().list("", ObjectType.GROUP) == list(GROUPS)
    assert source().list("", ObjectType.CONFIG) == []
    for group in GROUPS:
        assert set(source().list(group, ObjectType.CONFIG)) == set(groups()[group])


@pytest.mark.parametrize(("group", "name", "path"), FILES, ids=str)
def test_a_file_stands_alone(group, name, path):
    assert source().load_config(f"{group}/{name}").config == OmegaConf.load(path)
    has_partial = OmegaConf.load(path).get("_partial_") is True
    assert has_partial == (group != "scheduler")  # a schedule is called with the optimizer


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_every_choice_is_made_by_instantiate_alone(nodes, convert):
    extra = {} if convert is None else {"_convert_": convert}
    for name, node in nodes.param_groups.items():
        assert sum(len(g["params"]) for g in instantiate(node, **extra)(module())) == 6, name
    for name, node in nodes.optimizer.items():
        net = module()
        if name in ("muon_torch", "sparse_adam"):  # for matrices, or sparse gradients
            net = nn.Embedding(5, 3, sparse=name == "sparse_adam")
        optimizer = instantiate(node, **extra)(lit_optim.param_groups.single(net))
        for group in optimizer.param_groups:
            assert is_plain({key: value for key, value in group.items() if key != "params"}), name
        assert is_plain(optimizer.defaults), name
    for name, node in nodes.wrapper.items():
        base = torch.optim.SGD(module().parameters(), 0.1)
        assert instantiate(node, **extra)(base).param_groups is base.param_groups, name
    for name, node in nodes.scheduler.items():
        schedule = instantiate(node, **extra)
        assert schedule is None if name == "none" else isinstance(schedule, Schedule)
        assert is_plain(schedule), name


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_lists_and_mappings_of_a_configuration_are_taken(nodes, convert):
    extra = {} if convert is None else {"_convert_": convert}
    rules = nodes.param_groups.rules.copy()
    rules.rules = [
        {"name": ["2.weight", "head"], "lr_mult": 10},
        {"module": "LayerNorm", "frozen": True},
    ]
    optimizer = instantiate(nodes.optimizer.muon, roles={"2.w*": "other"}, lr=0.1, **extra)
    optimizer = optimizer(instantiate(rules, **extra)(module()))
    lrs = {g["role"]: g["lr"] for g in optimizer.param_groups}
    assert lrs["hidden"] == 0.1
    assert lrs["other"] == pytest.approx(10 * lrs["bias"])
    for group in optimizer.param_groups:
        assert is_plain({key: value for key, value in group.items() if key != "params"})
    phases = nodes.scheduler.phases.copy()
    phases.phases = [
        {"repeat": [{"shape": "linear", "from": 0, "to": 1, "for": 5}], "growth": 2},
    ]
    curve = instantiate(phases, **extra).curve(Horizon(15))
    assert [curve(t) for t in (4, 14)] == [1.0, 1.0]
    parts = nodes.scheduler.sequential.copy()
    parts.schedules = [{"name": "constant"}, {"name": "multistep", "milestones": ["50%"]}]
    assert instantiate(parts, **extra).curve(Horizon(8))(7) == pytest.approx(0.1)


def test_a_loop_with_everything_by_name(tmp_path):
    cfg = app(
        tmp_path,
        ["optimizer.lr=0.1", "scheduler.total=8"],
        defaults=[
            "_self_",
            {"optimizer": "adamw"},
            {"scheduler": "linear"},
            {"param_groups": "no_decay"},
            {"wrapper": "lookahead"},
        ],
    )
    net, twin = module(), module()
    optimizer = instantiate(cfg.optimizer)(instantiate(cfg.param_groups)(net))
    scheduler = instantiate(cfg.scheduler)(optimizer=instantiate(cfg.wrapper)(optimizer))
    matrices = [p for p in twin.parameters() if p.ndim > 1]
    others = [p for p in twin.parameters() if p.ndim < 2]
    theirs = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}], lr=0.1
    )
    slow = [p.detach().clone() for p in twin.parameters()]
    x = torch.randn(16, 4)
    for t in range(8):
        for model, stepped in ((net, scheduler.optimizer), (twin, theirs)):
            stepped.zero_grad()
            model(x).square().mean().backward()
        for group in theirs.param_groups:
            group["lr"] = 0.1 * (1 - (t + 1) / 8)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
            [0.1 * (1 - (t + 1) / 8)] * 2
        )
        scheduler.optimizer.step()
        scheduler.step()
        theirs.step()
        if t == 4:  # k = 5
            for p, q in zip(twin.parameters(), slow, strict=True):
                p.data.copy_(q.lerp(p.detach(), 0.5))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_groups_of_the_apps_own_are_not_disturbed(tmp_path):
    (tmp_path / "optimizer").mkdir()
    mine = {"_target_": "torch.optim.Adam", "lr": 3.0}
    for name in ("adam", "mine"):
        OmegaConf.save(mine, tmp_path / f"optimizer/{name}.yaml")
    defaults = ["_self_", {"optimizer": "adam"}]
    assert app(tmp_path, defaults=defaults).optimizer == mine  # its own file comes first
    assert app(tmp_path, ["optimizer=mine"], defaults=defaults).optimizer == mine
    ours = app(tmp_path, ["optimizer=muon"], defaults=defaults).optimizer
    assert ours._target_.endswith(".Muon")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("scheduler.warmup=-3", "warmup must be .*, got -3"),
        ("+scheduler.warmupp=3", "cosine_warmup takes no warmupp; did you mean warmup?"),
        ("optimizer.lr=-1", "lr must be .*, got -1"),
        ("optimizer.betas=[0.9,1.5]", r"betas must be 2 numbers .*, got .*1\.5"),
        ("+optimizer.lrr=3", "lrr"),
        ("wrapper.decay=2", "decay must be .*, got 2"),
        ("+param_groups.rule=[]", "rule"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path, override, told):
    names = ({"optimizer": "adamw"}, {"scheduler": "cosine_warmup"}, {"wrapper": "ema"})
    defaults = ["_self_", *names, {"param_groups": "rules"}]
    cfg = app(tmp_path, [override], defaults=defaults)

    def use():
        optimizer = instantiate(cfg.optimizer)(instantiate(cfg.param_groups)(module()))
        instantiate(cfg.wrapper)(optimizer)
        instantiate(cfg.scheduler)

    with pytest.raises((UsageError, TypeError, InstantiationException)) as error:
        use()
    [line] = [line for line in str(error.value).splitlines() if re.search(told, line)]
    if isinstance(error.value, InstantiationException):  # Hydra's, around ours
        assert line.startswith("UsageError(")
        assert len(str(error.value).splitlines()) == 3
    else:
        assert line == str(error.value)


def test_apps_that_hand_the_optimizer_to_instantiate(nodes):
    optimizer = torch.optim.SGD(module().parameters(), 0.1)
    with pytest.raises(InstantiationException, match=r"lit_optim\.lr_schedulers\.linear takes the"):
        instantiate(nodes.scheduler.linear, optimizer=optimizer)
    target = {"_target_": "lit_optim.lr_schedulers.linear", "total": 4}
    node = OmegaConf.merge(nodes.scheduler.linear, target)
    scheduler = instantiate(node, optimizer=optimizer)
    assert scheduler.get_last_lr() == pytest.approx([0.075])


def test_a_notebook_composes_again_and_again(tmp_path):
    from lit_optim.command_line.prepare import prepare_command_line

    defaults = ["_self_", {"optimizer": "adamw"}]
    before = dict(ConfigStore.instance().repo)
    for name in ("lion", "sgd"):
        cfg = app(tmp_path, [f"optimizer={name}"], defaults=defaults)
        assert cfg.optimizer._target_ == groups_target(name)
        assert not GlobalHydra.instance().is_initialized()
        prepare_command_line([f"optimizer={name}"])  # ours in between, as in a notebook
        assert not GlobalHydra.instance().is_initialized()
        instantiate(cfg.optimizer)(module().parameters()).step()
    assert ConfigStore.instance().repo == before


def groups_target(name):
    return OmegaConf.load(groups()["optimizer"][name])._target_
