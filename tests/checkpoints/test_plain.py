"""Checkpoints can be loaded with weights_only, or the value in the way is named in time."""

from __future__ import annotations

import enum
import io
import logging
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

import lit_optim
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.resumable import Resumable
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.checkpoints.plain import NotPlain, to_plain_values
from lit_optim.errors import TrainingFailed, UsageError
from lit_optim.schedules.library import linear
from tests.lightning.modules import Data


def read_back(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


Pair = namedtuple("Pair", "a b")

NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False),
    st.text(max_size=4), st.binary(max_size=4),
    st.floats(width=32, allow_nan=False).map(np.float32), st.floats(-1, 1).map(np.float64),
    st.integers(0, 255).map(np.uint8), st.booleans().map(np.bool_),
    st.text(max_size=3).map(np.str_), st.binary(max_size=3).map(np.bytes_),
    st.complex_numbers(allow_nan=False).map(np.complex128),
    st.sampled_from([Path("a/b"), PurePosixPath("/c"), Color.RED, Level.HIGH, torch.float16,
                     torch.device("cpu"), torch.Size([2, 3])]),
    hnp.arrays(np.float64, (2, 2), elements=st.floats(-1, 1)),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=3), st.integers(0, 9), st.integers(0, 9).map(np.int64))
VALUES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(deque),
        st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.dictionaries(KEYS, inner, max_size=3).map(MappingProxyType),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda d: defaultdict(list, d)),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_whatever_has_a_plain_counterpart_is_read_back_equal(value):
    plain = to_plain_values(value)
    assert read_back(plain) == plain
    assert to_plain_values(plain) is plain


def test_values_are_those_that_they_were():
    value = {"lr": np.logspace(-3, -1, 3)[0], "path": Path("x/y"), "n": np.int64(7), "c": Color.RED,
             "sizes": (np.float32(0.5), [np.bool_(True)]), "k": Counter("aab"), "s": {np.int64(1)},
             "matrix": np.eye(2)}  # fmt: skip
    plain = read_back(to_plain_values(value))
    assert plain == {"lr": 1e-3, "path": str(Path("x/y")), "n": 7, "c": "red",
                     "sizes": (0.5, [True]), "k": {"a": 2, "b": 1}, "s": {1},
                     "matrix": [[1.0, 0.0], [0.0, 1.0]]}  # fmt: skip
    assert type(plain["lr"]) is float
    assert isinstance(value["lr"], np.float64)  # nobody's own values are changed


def test_the_state_of_a_module_stays_as_it_is():
    state = nn.BatchNorm1d(3).state_dict()
    assert to_plain_values(state) is state
    assert state._metadata


class Odd:
    pass


@pytest.mark.parametrize(
    "value", [Odd(), nn.Linear(2, 2), partial(print), print, Odd, lambda: 0, SimpleNamespace(a=1),
              slice(3), object()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_none_is_named_with_its_place(value):
    with pytest.raises(NotPlain, match=r"a\.b\[1\]\.c is a \w+\.") as error:
        to_plain_values({"a": {"b": [0, {"c": value}]}})
    assert error.value.kind is type(value)


class Net(LightningModule):
    def __init__(self, backbone=None, path=Path("x"), lr=np.float64(0.1), config=None):  # noqa: B008
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, 1).double()

    def configure_optimizers(self):
        make = partial(lit_optim.AdamW, lr=np.logspace(-3, -1, 3)[0])
        return lit_optim.configure_optimizers(self, make, linear())

    def training_step(self, batch, batch_idx):
        self.seen = True
        return self.net(batch[0]).square().mean()


class Keeper(Callback):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"of": [self.value]}


class Adder(Callback):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["mine"] = Odd()


def fit(module, where, *callbacks):
    trainer = Trainer(
        callbacks=[Resumable(), Checkpoint(where), *callbacks], max_steps=2, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = CheckpointFiles()
    trainer.fit(module, Data())


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        ({}, None),
        ({"backbone": nn.Linear(2, 2)}, "hparams.backbone (Linear)"),
        ({"backbone": {"of": [Odd()]}}, "hparams.backbone.of[0] (Odd)"),
        ({"config": OmegaConf.create({"a": {"b": [1]}})}, None),
        ({"path": [Path("a")], "lr": np.ones(2)}, None),
    ],
    ids=["plain", "module", "nested", "omegaconf", "arrays"],
)
def test_hyperparameters(tmp_path, caplog, arguments, left_out):
    with caplog.at_level(logging.WARNING, "lit_optim"):
        fit(Net(**arguments), tmp_path)
    saved = torch.load(tmp_path / "last.ckpt")  # by torch's default, which runs no code
    assert type(saved["optimizer_states"][0]["param_groups"][0]["lr"]) is float
    kept = saved["hyper_parameters"]
    warnings = [line for line in caplog.messages if "checkpoints leave out" in line]
    if left_out is None:
        assert not warnings
        assert set(kept) == {"backbone", "path", "lr", "config"}
    else:
        assert len(warnings) == 1
        assert left_out in warnings[0]
        assert set(kept) == {"path", "lr", "config"}
    again = Net.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(again.net.weight, saved["state_dict"]["net.weight"])


def test_a_state_that_a_resumed_run_would_need_is_refused_before_the_first_update(tmp_path):
    fit(Net(), tmp_path, Keeper({"a": np.float32(1)}))
    assert torch.load(tmp_path / "last.ckpt")["callbacks"]["Keeper"] == {"of": [{"a": 1.0}]}
    module = Net()
    with pytest.raises(UsageError, match=r"callbacks\.Keeper\.of\[0\] is a .*\.Odd; keep plain"):
        fit(module, tmp_path / "other", Keeper(Odd()))
    assert not hasattr(module, "seen")


def test_what_comes_with_the_first_checkpoint_ends_the_run(tmp_path):
    with pytest.raises(TrainingFailed, match=r"last.ckpt could not be read back: mine is a .*Odd"):
        fit(Net(), tmp_path, Adder())
    assert not list(tmp_path.iterdir())


def test_the_first_one_is_read_back_before_it_counts(tmp_path, monkeypatch):
    files = CheckpointFiles()
    files.save_checkpoint({"n": 1}, tmp_path / "last.ckpt")

    def broken(content, file):
        file.write(b"what is this")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(TrainingFailed, match="cannot be read back"):
        CheckpointFiles().save_checkpoint({"n": 2}, tmp_path / "last.ckpt")
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.ckpt")["n"] == 1
