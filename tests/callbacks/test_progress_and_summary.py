"""A run shows one progress bar, intact lines above it, and a summary of the model."""

from __future__ import annotations

import io
import logging
import sys

import pytest
import torch
from lightning.pytorch import LightningModule
from rich.console import Console
from torch import nn

from lit_optim import app
from lit_optim.callbacks.progress import logs_above
from lit_optim.callbacks.summary import draw_summary, layers_of
from lit_optim.printing import natural_width
from tests.terminal import Terminal, screen

SHORT = ["trainer.max_steps=4", "trainer.limit_val_batches=1", "logger=none", "test=false"]


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """Run it in a terminal; returns the lines of the screen."""

    def run(*argv, columns=100, code=None, **env):
        terminal = Terminal()
        logging.getLogger("lit_optim").setLevel(logging.NOTSET)  # explain makes it silent
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", str(columns))
        for name, value in {"TERM": "xterm", **env}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["train.py", *SHORT, *argv])
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", terminal)
            patched.setattr(sys, "stderr", terminal)
            if code is None:
                app.main()
            else:
                with pytest.raises(SystemExit) as end:
                    app.main()
                assert end.value.code == code
        return screen(terminal.getvalue())

    return run


def test_the_screen_of_the_tests_obeys_a_terminals_codes():
    assert screen("abc\rx\nsecond\n\x1b[1A\x1b[2Kthird") == ["xbc", "third", ""]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor", "soap"])
def test_a_run_shows_a_single_intact_bar(shown, optimizer):
    lines = shown(f"optimizer={optimizer}")
    bars = [line for line in lines if line.startswith("train ")]
    assert len(bars) == 1, lines
    assert "4/4" in bars[0]


def test_a_line_of_an_optimizer_names_the_one_that_was_chosen(shown):
    lines = shown("optimizer=muon")
    assert [line for line in lines if line.endswith(": native kernels")] == [
        "Muon's AdamW: native kernels"
    ]


def test_a_warning_during_training_is_printed_above_the_bar(shown):
    """Of the guard against what is not finite."""
    lines = shown(
        *("optimizer=sgd", "optimizer.lr=1e30", "callbacks.nonfinite.policy=skip"),
        *("preset=none", "scheduler=none"),
    )
    bars = [k for k, line in enumerate(lines) if line.startswith("train ")]
    warnings = [k for k, line in enumerate(lines) if "skipped" in line]
    assert len(bars) == 1
    assert warnings
    assert max(warnings) < bars[0]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_logs_go_above_the_bar_of_a_terminal_only(is_terminal, monkeypatch):
    stream = Terminal() if is_terminal else io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger("some.body")
    logger.addHandler(handler)
    try:
        monkeypatch.setattr(sys, "stdout", stream)
        with logs_above(Console(file=stream, width=20)):
            assert (handler.stream is stream) != is_terminal
            logger.warning("[bold]a line that is longer than the terminal is wide[/]")
        assert handler.stream is stream
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "[bold]a line that is longer than the terminal is wide[/]\n"


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.scores = nn.Identity()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2, bias=False)
        self.scale = nn.Parameter(torch.ones(5))
        self.twin = nn.Linear(4, 2, bias=False)
        self.twin.weight = self.head.weight


class Wrapped(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def printed(module, frozen=()):
    table = draw_summary(layers_of(module), set(frozen))
    console = Console(file=io.StringIO(), width=natural_width(table))
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip(" ─")]


def test_layers_with_parameters_are_listed_once_and_add_up():
    model = Net()
    rows = printed(model)
    assert rows[0] == ["layer", "type", "parameters"]
    assert rows[1:-1] == [
        ["(itself)", "Net", "5"], ["body", "Sequential", "36"], ["head", "Linear", "8"],
    ]  # fmt: skip
    assert rows[-1] == ["total", "196", "B", str(sum(p.numel() for p in model.parameters()))]


def test_frozen_parameters_are_counted_if_there_are_any():
    rows = printed(Net(), {"body.0.weight", "body.0.bias"})
    assert rows[0] == ["layer", "type", "parameters", "frozen"]
    assert [row[-1] for row in rows[1:]] == ["0", "16", "0", "16"]


def test_a_single_child_is_divided_into_its_layers():
    assert [row[:3] for row in printed(Wrapped())[1:-1]] == [
        ["net.0", "Linear", "16"], ["net.2", "Linear", "10"],
    ]  # fmt: skip


def test_lazy_parameters_are_not_known_yet():
    class Lazy(LightningModule):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.LazyLinear(3), nn.Linear(2, 2)

    rows = printed(Lazy())
    assert rows[1] == ["a", "LazyLinear", *["with", "the", "first", "batch"]]
    assert rows[-1][-7:] == ["6", *["and", "more", "with", "the", "first", "batch"]]


def test_many_layers_are_counted():
    class Many(LightningModule):
        def __init__(self):
            super().__init__()
            for k in range(30):
                self.add_module(f"l{k}", nn.Linear(1, 1))

    rows = printed(Many())
    assert rows[-2] == ["5", "more", "10"]
    assert rows[-1][-1] == "60"


def test_a_run_prints_it_with_what_a_rule_freezes(shown):
    lines = shown("param_groups=rules", "param_groups.rules=[{name: conv.0.*, frozen: true}]")
    [total] = [line.split() for line in lines if line.strip().startswith("total")]
    assert total[-2:] == ["5,210", "150"]
    assert not any("FLOPs" in line or "scores" in line or "eval mode" in line for line in lines)


def test_it_can_be_switched_off(shown):
    lines = shown("trainer.enable_model_summary=false", "trainer.enable_progress_bar=false")
    assert not any("total" in line or line.startswith("train ") for line in lines)
