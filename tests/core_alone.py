"""Everything of the core, with what `pip install lit-optim` does not install out of reach.

`tests/test_core.py` runs this file in a process of its own.
"""

from __future__ import annotations

import copy
import pydoc
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
#: What the packages of the extras bring along, or what happens to be installed here.
COME_ALONG = {
    "PIL", "antlr4", "ignite", "jsonargparse", "lightning_fabric", "lightning_utilities",
    "matplotlib", "numpy", "omegaconf", "pandas", "pytorch_lightning", "requests", "scipy",
    "sklearn", "torchmetrics", "tqdm", "yaml",
}  # fmt: skip


def extra_packages() -> set[str]:
    """The import names of what the extras in pyproject.toml list, as far as they can be read."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    _, _, extras = text.partition("[project.optional-dependencies]")
    extras, _, _ = extras.partition("[project.scripts]")
    names = re.findall(r'^ +"([\w-]+)', extras, re.MULTILINE)
    return {name.replace("-", "_").replace("hydra_core", "hydra") for name in names}


def block(names: set[str]) -> None:
    """Let imports of these packages fail as if they were not installed."""
    for name in names - {"lit_optim", "triton"}:  # torch decides itself whether it has triton
        sys.modules[name] = None  # type: ignore[assignment]


block(extra_packages() | COME_ALONG)

import torch  # noqa: E402
from torch import nn  # noqa: E402

import lit_optim  # noqa: E402
from lit_optim import param_groups  # noqa: E402
from lit_optim.schedules.registry import functions_by_name  # noqa: E402

NEEDS_LIGHTNING = {"LitOptimCLI", "OptimizerMixin", "configure_optimizers"}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2, bias=False))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler=None) -> list[float]:
    """The losses of three updates."""
    inputs = torch.linspace(-1, 1, 20).view(5, 4)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - 1).square().mean()
        loss.backward()
        return loss

    losses = []
    for _ in range(3):
        losses.append(optimizer.step(closure).item())
        if scheduler is not None:
            scheduler.step()
    return losses


def check_optimizers() -> int:
    classes = [getattr(lit_optim, name) for name in lit_optim.__all__]
    wrappers = [lit_optim.Ema, lit_optim.Lookahead, lit_optim.Sam]
    optimizers = [
        c
        for c in classes
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c not in wrappers
    ]
    for cls in optimizers:
        model = make_model()
        matrices = [p for p in model.parameters() if p.ndim == 2]
        optimizer = cls(matrices if cls.__name__ == "MuonTorch" else model)
        losses = train(model, optimizer)
        assert all(map(float, losses)), cls
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for wrap in wrappers:
        model = make_model()
        losses = train(model, wrap(lit_optim.AdamW(param_groups(model), lr=1e-2)))
        assert losses[-1] < losses[0], wrap
    return len(optimizers)


def check_param_groups() -> None:
    model = make_model()
    for divide in (
        param_groups,
        param_groups.no_decay,
        param_groups.single,
        param_groups.transformers,
        param_groups.layer_decay,
    ):
        assert divide(model), divide
    groups = param_groups.by_role(param_groups.no_decay(model), model)
    train(model, lit_optim.Muon(groups))
    param_groups.describe_parameters(model)


def check_schedules() -> int:
    functions = functions_by_name()
    for name, function in functions.items():
        model = make_model()
        optimizer = lit_optim.SGD(model, lr=0.1, momentum=0.9)
        length = {"steps": 20, "steps_per_epoch": 5}
        scheduler = lit_optim.schedule(optimizer, function(), **length)
        train(model, optimizer, scheduler)
        assert scheduler.last_epoch == 3, name
        lrs = scheduler.get_last_lr()
        copy.deepcopy((model, optimizer, scheduler))
        model = make_model()
        optimizer = lit_optim.SGD(model, lr=0.1, momentum=0.9)
        scheduler = getattr(lit_optim.lr_schedulers, name)(optimizer, **length)
        train(model, optimizer, scheduler)
        assert scheduler.get_last_lr() == lrs, name
    return len(functions)


def check_what_is_listed() -> None:
    assert not NEEDS_LIGHTNING & {*lit_optim.__all__, *dir(lit_optim)}
    exec("from lit_optim import *", {})
    assert "AdamW" in pydoc.render_doc(lit_optim)


def check_what_needs_more() -> None:
    message = "imported"
    try:
        lit_optim.hf.Trainer  # noqa: B018
    except ModuleNotFoundError as error:
        message = str(error)
    assert "needs transformers, which is not installed: python -m pip install" in message
    for name in NEEDS_LIGHTNING:
        message = "imported"
        try:
            getattr(lit_optim, name)
        except ModuleNotFoundError as error:
            message = str(error)
        assert message.endswith("pip install 'lit-optim[train]'"), (name, message)


if __name__ == "__main__":
    count = check_optimizers()
    check_param_groups()
    schedules = check_schedules()
    check_what_is_listed()
    check_what_needs_more()
    loaded = [name for name, module in sys.modules.items() if isinstance(module, ModuleType)]
    assert not any(name.split(".")[0] in COME_ALONG for name in loaded)
    print(f"{count} optimizers, {schedules} schedules")
