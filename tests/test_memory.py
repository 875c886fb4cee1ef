"""What a training keeps in memory: computed, and counted as torch allocates it."""

from __future__ import annotations

import gc
import re
from contextlib import contextmanager

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.profiler import ProfilerActivity, profile

import lit_optim
from lit_optim import AdamW, release_gradients
from lit_optim.optimizers import find_optimizer
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.reports.explanation import explain
from scripts import memory
from tests.held_gradients import gradients_held

SIZE = 64


@contextmanager
def counted():
    """The bytes that torch has allocated meanwhile and not freed: the last, and the most."""
    gc.collect()
    found = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    total, most = 0, 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    found += [total, most]


def train(name, dtype, options):
    matrix = nn.Parameter(torch.ones(SIZE, SIZE, dtype=dtype))
    kind = find_optimizer(name)
    role = {"role": "hidden"} if issubclass(kind, Matrixwise) else {}
    torchs = {"executor": "torch"} if issubclass(kind, OptimizerBase) else {}  # compiles nothing
    optimizer = kind([{"params": [matrix], **role}], **options, **torchs)
    for step in range(2):
        matrix.grad = torch.full_like(matrix, 0.1 * (step + 1))
        optimizer.step()
    return optimizer


COUNTED = sorted({*memory.listed_choices("optimizer")} - {*memory.OTHERS})
SAMPLE = ("adafactor", "adamw", "muon_torch", "normuon", "schedule_free_adamw", "soap")


@pytest.mark.parametrize(
    "name", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in COUNTED]
)
def test_the_table_has_what_is_allocated(name):
    computed, kept = 0, []
    with counted() as allocated:
        for dtype, options in memory.SETTINGS.values():
            found = memory.compute(name, dtype, options, SIZE)
            if found is not None:
                computed += found.total
                kept.append(train(name, dtype, options))
    assert kept
    assert allocated[0] == pytest.approx(computed, abs=64 * len(kept))  # scalars


def test_lbfgs_keeps_its_history():
    matrix = nn.Parameter(torch.ones(SIZE, SIZE))
    optimizer = lit_optim.LBFGS([matrix], history_size=3, max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = (matrix * torch.randn(SIZE, SIZE)).sum() + matrix.square().sum()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    state = optimizer.state[matrix]
    tensors = [
        x for value in state.values() for x in (value if isinstance(value, list) else [value])
    ]
    states = sum(x.nbytes for x in tensors if torch.is_tensor(x) and x.numel() > 1)
    assert states / matrix.numel() + 8 == 16 + 8 * 3


def test_six_bytes_per_parameter_and_a_little_more():
    """Everything that is allocated at any time, with all parameters, gradients and states."""
    layers = 200  # a CPU without units for bfloat16 multiplies copies of a layer in float32
    with counted() as allocated:
        model = nn.Sequential(
            *(nn.Linear(256, 256, bias=False, dtype=torch.bfloat16) for _ in range(layers))
        )
        optimizer = AdamW(model.parameters(), master="split", state_dtype="int8")
        release_gradients(model, optimizer)
        for _ in range(3):
            model(torch.ones(1, 256, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()
    count = sum(p.numel() for p in model.parameters())
    assert 6.0 < allocated[1] / count <= 6.1
    computed = memory.memory_of(optimizer, model, is_released=True)
    assert allocated[1] == pytest.approx(computed.total, rel=0.01)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_released_gradients_that_wait_for_others_are_counted(name):
    found, computed = gradients_held(name)
    assert found == computed


@pytest.mark.parametrize(
    ("line", "each", "saved"),
    [
        (
            "trainer.precision=bf16-true optimizer.master=split optimizer.state_dtype=int8",
            8.03,
            0.4,
        ),
        ("wrapper=ema", 20, 0.4),
        ("optimizer=muon trainer=fsdp_cpu", 6, 0),  # all parameters are one layer of FSDP2
    ],
)
def test_explain_says_the_bytes_of_the_model_at_hand(line, each, saved, capsys):
    line = ["data=digits", "model=mlp", "model.bias=false", "trainer.max_steps=3", *line.split()]
    for released in ("false", "true"):
        explain([*line, f"trainer.gradient_release={released}"], Console(width=300))
        [told] = re.findall(r"(.+); ([\d.]+) bytes per parameter", capsys.readouterr().out)
        if released == "false":
            assert float(told[1]) == pytest.approx(each, rel=0.02)
        else:
            assert "at most" in told[0]
            assert float(told[1]) < 1.02 * each - saved


def test_the_table_is_up_to_date():
    page = memory.PAGE.read_text("utf-8")
    assert memory.memory_table() in page, "run python scripts/memory.py"
