"""Everything works on a device like an Apple GPU: see tests/mps.py."""

from __future__ import annotations

import platform

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator as FabricAccelerator
from lightning.pytorch.accelerators import MPSAccelerator

from lit_optim.kernels import precision
from tests.mps import MPS, OnMps, mps
from tests.optimizers.running import NAMES, made_by


@pytest.fixture
def device():
    with mps() as device:
        yield device


def test_it_refuses_what_an_apple_gpu_refuses(device):
    x = torch.ones(3, 2, device=device)
    assert (type(x), x.device, x.to("cpu").device) == (OnMps, MPS, torch.device("cpu"))
    wide = {"dtype": torch.float64}
    refused = [
        x.double,
        x.cdouble,
        lambda: x.to(torch.float64),
        lambda: x.type(torch.float64),
        lambda: x.sum(**wide),
        lambda: x.new_zeros(1, **wide),
        lambda: torch.zeros(1, device="mps", **wide),
        lambda: torch.tensor(1.0, device=device, **wide),
        lambda: torch.ones(1, **wide).to("mps"),
    ]
    for make in refused:
        with pytest.raises(TypeError, match="float64"):
            make()
    for mix in (lambda: x + torch.ones(2), lambda: torch.ones(2, 3) @ x):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    assert float((x * torch.tensor(2.0)).sum()) == 12.0  # a number of the CPU


def train(name, updates=3):
    is_matrix = name == "muon_torch"
    torch.manual_seed(0)
    layers = [torch.nn.Linear(*sizes, bias=not is_matrix) for sizes in ((4, 6), (6, 2))]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1]).to("mps")
    optimizer = made_by(name)(list(model.parameters()))

    def closure():
        optimizer.zero_grad()
        loss = ((model(torch.ones(5, 4, device="mps")) - 1) ** 2).sum()
        loss.backward()
        return loss

    losses = [float(closure())]
    for _ in range(updates):
        closure()
        optimizer.step(closure)
    return optimizer, [*losses, float(closure())]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparse_adam"])
def test_every_optimizer_trains_and_loads_its_state(name, device):
    optimizer, (first, last) = train(name)
    assert last != first
    state = {key: value.cpu() if isinstance(value, torch.Tensor) else value
             for key, value in optimizer.state_dict()["state"].get(0, {}).items()}  # fmt: skip
    optimizer.load_state_dict(optimizer.state_dict())
    for key, value in optimizer.state_dict()["state"].get(0, {}).items():
        if isinstance(value, torch.Tensor) and value.dim():
            assert value.device == MPS
            assert torch.equal(value.cpu(), state[key])


def test_it_would_be_noticed(device, monkeypatch):
    monkeypatch.setattr(precision, "DEVICES_WITHOUT_FLOAT64", ())
    with pytest.raises(TypeError, match="float64"):
        train("prodigy")


@pytest.fixture
def apple(device, monkeypatch):
    """Lightning and the doctor find the device."""
    states = []
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for accelerator in (MPSAccelerator, FabricAccelerator):  # each caches what it has found
        monkeypatch.setattr(accelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: states.append(state.tolist()))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: None)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    return states


RUNS = {
    "ema, a plateau and health": ("wrapper=ema", "scheduler=plateau", "callbacks=health"),
    "lookahead and prodigy": ("optimizer=prodigy", "wrapper=lookahead"),
    "sam and lamb, clipped": ("optimizer=lamb", "wrapper=sam", "trainer.gradient_clip_val=1.0"),
    "greedy, and several batches": ("scheduler=greedy", "trainer.accumulate_grad_batches=2"),
    "schedule-free": ("optimizer=schedule_free_adamw", "scheduler=none"),
    "muon": ("optimizer=muon",),
}
FIRST, *OTHERS = RUNS


@pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_run_is_trained_tested_and_resumed(name, apple, run_here, tmp_path):
    line = ("trainer=gpu", "data=digits", "model=cnn", "trainer.val_check_interval=2", *RUNS[name])
    result = run_here("trainer.max_steps=4", *line)
    assert result.test
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = [x for x in saved["state_dict"].values() if isinstance(x, torch.Tensor)]
    assert tensors
    run_here("trainer.max_steps=6", *line, f"resume={tmp_path / 'run'}", "resume.horizon=extend")
    assert apple == [[7]]
