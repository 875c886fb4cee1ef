"""Constructors made from declarations, as Python and libraries see them."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import re
from typing import Annotated

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.hyperparameters import describe, hints_of
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.optimizers.sgd import SGD
from lit_optim.signatures import inspect_signature, read_signature
from tests.optimizers.running import NAMES, WALKS, class_of, made_by

#: torch's classes, whose positional arguments have the same order.
OF_TORCH = {
    name: getattr(torch.optim, class_of(name).__name__)
    for name in NAMES
    if hasattr(torch.optim, class_of(name).__name__) and name != "muon"
}


def own_arguments(name):
    """The hyperparameters of an optimizer as its YAML has them."""
    node = OmegaConf.to_container(OmegaConf.load(groups()["optimizer"][name]))
    return {key: v for key, v in node.items() if key != "defaults" and not key.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_inspect_sees_the_hyperparameters_and_the_options(name):
    parameters = inspect.signature(class_of(name)).parameters
    assert next(iter(parameters)) == "params"
    assert parameters["params"].default is inspect.Parameter.empty
    assert set(own_arguments(name)) <= set(parameters)
    for key, parameter in parameters.items():
        assert parameter.kind is (
            parameter.KEYWORD_ONLY
            if name in WALKS and (key in OPTIONS or key.startswith("adamw_") or key == "roles")
            else parameter.POSITIONAL_OR_KEYWORD
        )
    if name in WALKS:
        assert {key: parameters[key].default for key in OPTIONS} == OPTIONS


@pytest.mark.parametrize("name", OF_TORCH)
def test_positional_arguments_have_the_order_of_torch(name):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    ours, torchs = (
        [key for key, p in inspect.signature(cls).parameters.items() if p.kind in kinds]
        for cls in (class_of(name), OF_TORCH[name])
    )
    torchs = [key for key in torchs if key not in {"foreach", "fused", "capturable"} - set(ours)]
    shared = [key for key in ours if key in torchs]
    assert shared == [key for key in torchs if key in shared]
    assert ours[: len(shared)] == shared


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_constructor(name):
    text = re.sub("\b.", "", pydoc.render_doc(class_of(name)))
    written = text.split("__init__")[0]
    assert all(f"{key}:" in written for key in own_arguments(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_source_says_what_the_class_does(name):
    cls = class_of(name)
    read, imported = read_signature(f"{cls.__module__}.{cls.__qualname__}"), inspect_signature(cls)
    assert read.parameters.keys() == imported.parameters.keys()
    assert not read.open
    for key, parameter in imported.parameters.items():
        assert read.parameters[key].required == parameter.required
        if key != "params":
            assert describe(read.parameters[key].annotation) == describe(parameter.annotation), key


@pytest.mark.parametrize("name", NAMES)
def test_hydra_instantiates_it(name):
    node = {"_target_": f"{class_of(name).__module__}.{class_of(name).__name__}"}
    made = instantiate(node, params=[torch.nn.Parameter(torch.ones(2, 2))])
    assert type(made) is class_of(name)
    with pytest.raises(Exception, match="lrr"):
        instantiate(node | {"lrr": 1}, params=[torch.nn.Parameter(torch.ones(2, 2))])


@pytest.mark.parametrize("name", NAMES)
def test_hydra_zen_sees_the_constructor(name):
    zen = pytest.importorskip("hydra_zen")
    config = zen.builds(class_of(name), populate_full_signature=True, zen_partial=True)
    made = zen.instantiate(config())(params=[torch.nn.Parameter(torch.ones(2, 2))])
    assert type(made) is class_of(name)
    assert set(own_arguments(name)) <= set(inspect.signature(config).parameters)
    with pytest.raises(TypeError, match="lrr"):
        zen.builds(class_of(name), lrr=1, zen_partial=True)


@pytest.mark.parametrize("name", NAMES)
def test_jsonargparse_sees_the_constructor(name):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(class_of(name), "optimizer", skip={"params"})
    parsed = parser.parse_args(["--optimizer.lr=0.25"])
    assert parsed.optimizer.lr == 0.25
    assert set(own_arguments(name)) <= set(vars(parsed.optimizer))
    with pytest.raises(jsonargparse.ArgumentError):
        parser.parse_args(["--optimizer.lrr=1"])


class Parent(Elementwise):
    lr: Annotated[float, "> 0"] = 0.5
    memory: float = 0.9

    states = {"m": State()}  # noqa: RUF012

    def rule(self, g, p, s, h):
        m = h.memory * s.m + g
        return m, {"m": m}


class Child(Parent):
    memory: float = 0.5
    scale: float = 1.0


class Written(Parent):
    def __init__(self, params, lr: float = 0.25):
        super().__init__(params, lr=lr)


def one():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    return p


def test_a_subclass_inherits_fields_and_changes_defaults():
    assert [*inspect.signature(Child).parameters][:4] == ["params", "lr", "memory", "scale"]
    assert Child([one()]).param_groups[0]["memory"] == 0.5
    assert Parent([one()]).param_groups[0]["memory"] == 0.9
    assert Child([one()], 0.1, 0.2, 0.3).param_groups[0]["scale"] == 0.3


def test_a_class_that_writes_its_constructor_keeps_it():
    assert [*inspect.signature(Written).parameters] == ["params", "lr"]
    assert Written([one()]).param_groups[0]["lr"] == 0.25
    assert Written([one()]).param_groups[0]["memory"] == 0.9


def test_a_value_belongs_to_the_groups():
    optimizer = AdamW([one()], lr=0.1)
    for name in ("lr", "betas", "executor"):
        assert not hasattr(optimizer, name)
        assert not hasattr(AdamW, name)


def test_errors_are_those_of_python_or_name_the_range():
    with pytest.raises(TypeError, match=r"AdamW.__init__\(\) got an unexpected .* 'lrr'"):
        AdamW([one()], lrr=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'params'"):
        AdamW()
    with pytest.raises(TypeError, match="positional argument"):
        AdamW([one()], 1e-3, (0.9, 0.999), 1e-8, 0.0, False, "torch")
    with pytest.raises(UsageError, match=r"^lr must be a number > 0, got -1$"):
        Parent([one()], lr=-1)


def test_hints_are_types_and_ranges():
    hints = hints_of(Parent.__init__)
    assert hints["lr"] == Annotated[float, "> 0"]
    assert hints["maximize"] is bool


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_it_can_be_pickled_and_copied(name, duplicate):
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = made_by(name)([p], **({} if name == "adafactor_hf" else {"lr": 0.1}))
    p.grad = torch.ones(2, 2)
    optimizer.step()
    twin = duplicate(optimizer)
    [q] = twin.param_groups[0]["params"]
    for parameter, one in ((p, optimizer), (q, twin)):
        parameter.grad = torch.full((2, 2), 0.5)
        one.step()
    assert torch.equal(p, q)


def test_sgd_and_its_relatives_have_signatures_of_their_own():
    assert "nesterov" in inspect.signature(SGD).parameters
    assert "nesterov" not in inspect.signature(class_of("momentum")).parameters
    assert "dampening" not in inspect.signature(class_of("nag")).parameters
