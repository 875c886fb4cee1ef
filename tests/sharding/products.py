"""Runs of the command line in the processes of a test, as under torchrun."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

QUIET = (
    "logger=none", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false",
    "data=digits", "model=mlp", "data.batch_size=60", "trainer.precision=64-true",
    "trainer.threads=1",
)  # fmt: skip


def train(place: str, *argv: str, alone: bool = False) -> dict[str, Any]:
    """Run a line of train.py in a directory; returns its result, and the error if it has one.

    Args:
        place: of the run.
        argv: the overrides.
        alone: whether each process of the test is a run of its own.
    """
    from omegaconf import OmegaConf

    from lit_optim.command_line.prepare import prepare_command_line
    from lit_optim.config.composing import compose_config
    from lit_optim.environment import forget_ranks
    from lit_optim.errors import TrainingFailed, UsageError
    from lit_optim.runs.run import run

    kept = dict(os.environ)
    if alone:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)
    forget_ranks()
    checkpoints = f"callbacks.checkpoint.dirpath={place}/checkpoints"
    try:
        line = prepare_command_line([*QUIET, checkpoints, *argv]).argv
        cfg = compose_config([x for x in line if not x.startswith("hydra.")])
        choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items() if v}
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        result = run(cfg, Path(place), choices)
    except (UsageError, TrainingFailed) as error:
        return {"error": str(error)}
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return json.loads(json.dumps(vars(result)))


def captured(place: str, *argv: str) -> dict[str, Any]:
    """Run a line; returns what it prints, and the bytes of the optimizer's state here."""
    from contextlib import redirect_stdout
    from io import StringIO
    from unittest.mock import patch

    from lightning.pytorch import Trainer

    from lit_optim.sharding import local_tensor

    trainers, fit, out = [], Trainer.fit, StringIO()

    def remember(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        trainers.append(trainer)
        return fit(trainer, *args, **kwargs)

    with patch.object(Trainer, "fit", remember), redirect_stdout(out):
        train(place, *argv)
    states = [x for state in trainers[0].optimizers[0].state.values() for x in state.values()]
    size = sum(local_tensor(x).nbytes for x in states if isinstance(x, torch.Tensor))
    return {"out": out.getvalue(), "state": size}


def saved(place: str | Path, name: str = "last") -> dict[str, Any]:
    """A checkpoint of a run."""
    path = Path(place) / "checkpoints" / f"{name}.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)
