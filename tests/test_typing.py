"""Type checkers accept right uses of the public names, and report the wrong ones."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import lit_optim
from lit_optim.schedules.registry import schedules_by_name
from tests.conftest import ROOT
from tests.optimizers.running import NAMES, class_of

START = """\
from functools import partial

import numpy
import pytorch_lightning
import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

import lit_optim
from lit_optim import (
    {names},
)
from lit_optim.param_groups import no_decay
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup

model = torch.nn.Linear(2, 2)
module = LightningModule()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
RIGHT = [
    "AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, cautious=True)",
    "AdamW([{'params': [torch.ones(2)], 'lr': 0.1}])",
    "AdamW(model.named_parameters())",
    "AdamW(model, torch.tensor(0.1), betas=[0.9, 0.95], fused=True, foreach=None)",
    "AdamW(model, lr=torch.tensor(0.1), weight_decay=0)",
    "Muon(model, lr=numpy.float32(0.1))",
    "Muon(model, adamw_betas=[0.9, 0.95])",
    "lit_optim.Muon(model, lr=0.02)",
    "Muon(param_groups(model), lr=0.02, momentum=0.9)",
    "Muon(param_groups.by_role(param_groups.no_decay(model), model))",
    "param_groups(model, base='single', rules=[{'match': '*.bias', 'lr': 0.1}])",
    "lit_optim.param_groups.layer_decay(model, decay=0.9)",
    "no_decay(model)",
    "Ema(AdamW(model), decay=0.99)",
    "Lookahead(Muon(model))",
    "Sam(AdamW(model), rho=0.1)",
    "schedule(optimizer, schedules.cosine_warmup('5%'), steps=10)",
    "schedule(AdamW(model), cosine_warmup(5, min_lr_ratio=0.1), steps=10, steps_per_epoch=5)",
    "schedule(AdamW(model), 'wsd', steps=10, horizon='extend')",
    "scheduled: ScheduledLR = schedule(optimizer, None)",
    "torch.optim.lr_scheduler.SequentialLR(optimizer, [scheduled, scheduled], [3])",
    "lr: float = schedules.wsd(total=10).curve(Horizon(10))(3)",
    "lr_schedulers.cosine_warmup(optimizer, warmup='5%', steps=10)",
    "kind: type[LRScheduler] = lr_schedulers.cosine",
    "made: ScheduledLR = lr_schedulers.cosine(optimizer, steps=9)",
    "lr_schedulers.plateau(optimizer).step(0.5)",
    "schedule(optimizer, schedules.plateau()).step(torch.tensor(0.5))",
    "lit_optim.lr_schedulers.OneCycleLR(optimizer, pct_start=0.1, steps=10)",
    "configure_optimizers(module, partial(AdamW, lr=1e-3), cosine_warmup())",
    "configure_optimizers(module, 'adamw', 'cosine_warmup')",
    "configure_optimizers(module, lambda groups: Muon(groups, lr=0.02), schedules.wsd())",
    "configure_optimizers(module, AdamW(model), schedules.cosine)",
    "configure_optimizers(module, AdamW, 'wsd', of=model, updates_per_batch=1 / 5)",
    "configure_optimizers(module, AdamW(model), partial(StepLR, step_size=3), steps=10)",
    "configure_optimizers(module, {'name': 'adamw', 'lr': 0.1}, of=model.parameters())",
    "configure_optimizers(pytorch_lightning.LightningModule(), 'adamw', horizon='keep')",
    "class Net(OptimizerMixin, LightningModule): pass",
    "class Older(OptimizerMixin, pytorch_lightning.LightningModule): pass",
    "class Cli(LitOptimCLI): pass",
    "class MyTrainer(hf.TrainerMixin): pass",
    "text: str = lit_optim.__version__",
    "names: list[str] = lit_optim.__all__",
]
WRONG = [
    "lit_optim.Adamw",
    "from lit_optim import Adamw",
    "from lit_optim import scheduler",
    "from lit_optim.schedules import cosine_warmp",
    "from lit_optim.lr_schedulers import cosine_warmp",
    "schedules.cosine_warmp",
    "lr_schedulers.cosine_warmp",
    "param_groups.nodecay",
    "param_groups('model')",
    "param_groups(model, bas='single')",
    "param_groups.no_decay('model')",
    "no_decay(3)",
    "AdamW()",
    "AdamW(3)",
    "AdamW(model, lr='high')",
    "AdamW(model, betas=0.9)",
    "AdamW(model, betas=('a', 'b'))",
    "AdamW(model, cautious='no')",
    "AdamW(model, executor='fast')",
    "Muon(model, nesterov='yes')",
    "Ema(model)",
    "Ema(AdamW(model), decay='slow')",
    "Lookahead(AdamW(model), slow=3)",
    "Sam(AdamW(model), rho='x')",
    "schedule(optimizer)",
    "schedule(optimizer, 3)",
    "schedule(model, schedules.wsd())",
    "schedule(optimizer, schedules.wsd(), 10)",
    "schedule(optimizer, schedules.wsd(), steps='10')",
    "schedule(optimizer, schedules.wsd(), step=10)",
    "schedule(optimizer, schedules.wsd(), horizon='longer')",
    "schedules.cosine_warmup(warmup=[5])",
    "schedules.cosine_warmup(total=0.5)",
    "schedules.cosine_warmup('5%', '10%')",
    "cosine_warmup(min_lr_ratio='low')",
    "lr_schedulers.wsd()",
    "lr_schedulers.wsd(optimizer, cooldown=[1])",
    "lr_schedulers.wsd(optimizer, step_alignment='middle')",
    "hf.TrainerMixn",
    "hf.Trainr",
    "configure_optimizers(module)",
    "configure_optimizers(module, AdamW, 3)",
    "configure_optimizers(module, AdamW, shedule=cosine_warmup())",
]


def all_lines():
    """Lines with what is right, and with what is wrong: these, and some for each name."""
    right, wrong = list(RIGHT), list(WRONG)
    for cls in map(class_of, NAMES):
        right += [f"{cls.__name__}([], lr=1e-3)", f"lit_optim.{cls.__name__}(model)"]
        wrong += [f"{cls.__name__}([], lrr=1)", f"{cls.__name__}(model, lr='high')"]
        if "betas" in inspect.signature(cls).parameters:
            right += [f"{cls.__name__}(model, betas={cls.fields['betas'].default})"]
            wrong += [f"{cls.__name__}(model, betas=0.9)"]
    for function in schedules_by_name().values():
        name = function.__name__
        right += [f"schedules.{name}()", f"lr_schedulers.{name}(optimizer, steps=9)"]
        wrong += [f"schedules.{name}(wamup=1)", f"lr_schedulers.{name}(optimizer, wamup=1)"]
    return right, wrong


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_report_the_wrong_lines_only(checker, tmp_path):
    """Processes: one for each checker and all lines. mypy is strict, as the configuration says."""
    pytest.importorskip(checker)
    right, wrong = all_lines()
    start = START.format(names=",\n    ".join(lit_optim.__all__))
    path = tmp_path / "lines.py"
    path.write_text(start + "\n".join([*right, *wrong, ""]), "utf-8")
    command = [sys.executable, "-m", checker]
    if checker == "pyright":  # without it pyright takes the python on PATH, which may lack torch
        command += ["--pythonpath", sys.executable]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
    found = re.findall(r"lines\.py:(\d+)(?::\d+ -|:) error: (.*)", done.stdout)
    assert found, done.stdout + done.stderr
    lines, first = path.read_text("utf-8").splitlines(), start.count("\n")
    reported = {int(line) - 1: message for line, message in found}
    unexpected = {lines[k]: text for k, text in reported.items() if k < first + len(right)}
    assert unexpected == {}
    accepted = [lines[k] for k in range(first + len(right), len(lines)) if k not in reported]
    assert accepted == []
