"""Threads are chosen by the size of the work and the CPUs that are free, unless the user does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.compile import from_compiled
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_optim import threads
from lit_optim.callbacks.threads import WorkCounter
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.old_keys import rename_old_keys
from lit_optim.errors import UsageError
from lit_optim.kernels import cpu
from lit_optim.reports import installation as doctor
from lit_optim.runs.build import build_run
from lit_optim.tasks.classifiers import CNN
from lit_optim.threads import Cpus, choose_threads, limit_threads, prepare_threads

PACKAGE = Path(threads.__file__).parent
POLICIES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
SHORT = (
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "logger=none",
    "model=linear",
    "scheduler=none",
)


@pytest.fixture(autouse=True)
def _restored(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where checkpoints are written
    before = torch.get_num_threads()
    for name in (*threads.VARIABLES, threads.SHARE):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """Four CPUs of which as many are busy as is said."""

    def pretend(busy=0.0, usable=4):
        monkeypatch.setattr(threads, "read_cpus", lambda: Cpus(4, usable, busy))

    pretend()
    return pretend


@pytest.mark.parametrize("busy", [0.0, 3.0])
def test_a_small_model_gets_one_thread(machine, busy):
    machine(busy)
    assert choose_threads(threads.SMALL).count == 1
    assert choose_threads(threads.SMALL + 1).count == 4 - busy
    assert choose_threads(None).count == 4 - busy


def test_a_job_of_a_sweep_gets_its_share_at_most(machine):
    environment = {"PATH": ""}
    limit_threads(environment, n_jobs=2)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert not threads.has_requested_threads(environment)
    assert choose_threads(None, environment).count == 2
    assert choose_threads(1.0, environment).count == 1
    machine(busy=3.0)
    assert choose_threads(None, environment).count == 1
    limit_threads(environment, n_jobs=9)
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_a_number_in_the_environment_wins_in_a_sweep_too(machine, name):
    environment = {name: "3"}
    assert threads.has_requested_threads(environment)
    limit_threads(environment, n_jobs=4)
    assert environment == {name: "3"}


@pytest.mark.parametrize("variable", [None, *POLICIES])
def test_spinning_is_bounded_unless_the_user_has_a_policy(monkeypatch, variable):
    for name in POLICIES:
        monkeypatch.setenv(name, "7")
        monkeypatch.delenv(name)
    if variable is not None:
        monkeypatch.setenv(variable, "7")
    monkeypatch.setattr(threads, "_begin", [])
    prepare_threads()
    expected = {"GOMP_SPINCOUNT": threads.SPINS, "KMP_BLOCKTIME": threads.BLOCK_TIME}
    if variable == "OMP_WAIT_POLICY":
        expected = {}
    elif variable is not None:
        expected[variable] = "7"
    found = {name: os.environ[name] for name in POLICIES[:2] if name in os.environ}
    assert found == expected


def fit(tmp_path, *argv, before=lambda: None, checkpoint=None):
    """The threads that a run has."""
    torch.set_num_threads(3)
    parts = build_run(compose_config(prepare_command_line([*SHORT, *argv]).argv), tmp_path)
    before()
    parts.trainer.fit(parts.model, parts.data, ckpt_path=checkpoint, weights_only=True)
    return torch.get_num_threads()


def test_a_run_of_a_small_model_has_one_thread(machine, tmp_path):
    assert fit(tmp_path) == 1


def test_a_run_of_a_large_model_has_the_cpus_that_are_free(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    machine(busy=2.0)
    assert fit(tmp_path) == 2


def test_as_many_as_torch_takes_at_most(machine):
    assert choose_threads(None, at_most=2).count == 2  # such as one for each core, not for each CPU
    assert choose_threads(None, at_most=9).count == 4


class Wrapped(LightningModule):
    """A module of Lightning's."""

    def __init__(self, module):
        super().__init__()
        self.inner = module


LAYERS = {
    "linear": (lambda: nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2)), (3, 7)),
    "tokens": (lambda: nn.Linear(7, 5, bias=False), (3, 11, 7)),
    "vectors": (lambda: CNN(40, 10), (6, 40)),
    "images": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 13)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_work_is_the_multiplications_of_layers(name):
    """As torch counts them, in floating-point operations: two for each."""
    make, shape = LAYERS[name]
    module, x = make(), torch.randn(shape)
    counter = WorkCounter(module)
    with FlopCounterMode(display=False) as flops:
        module(x)
    counter.end()
    module(x)  # no longer counted
    assert 2 * counter.products == flops.get_total_flops() > 0
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    assert counter.work == counter.products / len(layers)


def compile_in_place(module):
    module.compile(backend="eager")
    return module


WITHOUT_HOOKS = {
    "compiled in place": compile_in_place,
    "compiled": lambda module: nn.Sequential(torch.compile(module, backend="eager")),
    "compiled by Lightning": lambda module: from_compiled(
        torch.compile(Wrapped(module), backend="eager")
    ),
    "scripted": torch.jit.script,  # takes no hooks
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", WITHOUT_HOOKS)
def test_the_work_of_a_compiled_model_is_not_counted(name):
    layer = nn.Linear(2, 2)
    module = WITHOUT_HOOKS[name](nn.Sequential(layer))
    counter = WorkCounter(module)
    assert not any(one._forward_hooks for one in (layer, *module.modules()))
    counter.end()
    assert counter.work is None


def test_tokens_are_work(machine, tmp_path, monkeypatch):
    """As many of them as the product of a batch and its length, in training as in validation."""
    (tmp_path / "text.txt").write_text("to be or not to be " * 200)
    line = ["data=char_lm", "data.path=text.txt", "data.batch_size=3", "data.block=8", "model=gpt",
            "model.width=16", "model.heads=2", "model.layers=1", "trainer.max_steps=1"]  # fmt: skip
    seen = []
    choose = threads.choose_threads
    monkeypatch.setattr(
        "lit_optim.callbacks.threads.choose_threads",
        lambda work, **more: seen.append(work) or choose(work, **more),
    )
    fit(tmp_path, *line)
    letters = len(set("to be or not to be"))
    products = (12 * 16 * 16 + letters * 16) * 3 * 8  # a layer's four matrices, and the head
    assert seen == [pytest.approx(products / 5)]


@pytest.mark.parametrize("batch", ["mini", "full"])
def test_the_work_of_vectors_is_weights_times_samples(batch, machine, tmp_path, monkeypatch):
    seen = []
    choose = threads.choose_threads
    monkeypatch.setattr(
        "lit_optim.callbacks.threads.choose_threads",
        lambda work, **more: seen.append(work) or choose(work, **more),
    )
    fit(tmp_path, f"batch={batch}", "data.batch_size=50")
    assert seen == [40 * 10 * 50]


def test_the_setting_wins(machine, tmp_path):
    assert fit(tmp_path, "trainer.threads=2") == 2
    assert fit(tmp_path, "threads=2") == 2  # as it was called


def test_the_setting_in_a_file_by_its_old_name():
    cfg = OmegaConf.create({"threads": 2, "trainer": {"max_steps": 1, "threads": None}})
    OmegaConf.set_struct(cfg, True)
    rename_old_keys(cfg)
    assert cfg == {"trainer": {"max_steps": 1, "threads": 2}}


def test_the_environment_wins(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert fit(tmp_path) == 3


def test_the_users_code_wins(machine, tmp_path):
    assert fit(tmp_path, before=lambda: torch.set_num_threads(2)) == 2


def test_a_resumed_run_keeps_its_threads(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    machine(busy=2.0)
    torch.set_num_threads(3)
    parts = build_run(compose_config(prepare_command_line(list(SHORT)).argv), tmp_path)
    parts.trainer.fit(parts.model, parts.data)
    path = tmp_path / "some.ckpt"
    parts.trainer.save_checkpoint(path)
    assert isinstance(parts.trainer.strategy.checkpoint_io, CheckpointFiles)
    machine(busy=0.0)
    assert fit(tmp_path, "trainer.max_steps=4", checkpoint=path) == 2
    monkeypatch.setattr("lit_optim.callbacks.threads.read_cpus", lambda: Cpus(4, 1, 0.0))
    machine(busy=0.0, usable=1)
    assert fit(tmp_path, "trainer.max_steps=4", checkpoint=path) == 1


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_wrong_number_is_refused(value):
    with pytest.raises(UsageError, match=r"trainer\.threads must be a whole number in"):
        prepare_command_line([f"trainer.threads={value}"])


def test_a_kernel_takes_threads_by_its_elements():
    torch.set_num_threads(3)
    each = cpu.ELEMENTS_PER_THREAD
    counts = [cpu.count_threads(size) for size in (0, 1, 2 * each - 1, 2 * each, 100 * each)]
    assert counts == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("is_set", [True, False])
def test_the_doctor_says_how_many(is_set, machine, monkeypatch):
    machine(busy=2.0)
    monkeypatch.setattr(doctor, "read_cpus", threads.read_cpus)
    if is_set:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(4)
    [line] = [found.message for found in doctor.devices() if found.name == "cpu"]
    assert line.startswith("4 CPUs, 2.0 busy")
    expected = "as OMP_NUM_THREADS" if is_set else "small work gets 1 thread, larger work 2"
    assert expected in line


def test_only_our_programs_set_threads_and_their_waiting():
    """Who imports an optimizer, or trains with transformers, has what torch does."""
    found = {"torch.set_num_threads(": set(), "prepare_threads()": set()}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8").replace("def prepare_threads()", "")
        for call, places in found.items():
            if call in text:
                places.add(path.relative_to(PACKAGE).as_posix())
    assert found == {
        "torch.set_num_threads(": {"callbacks/threads.py"},
        "prepare_threads()": {"app.py", "cli.py", "sweeps/job_server.py"},
    }
