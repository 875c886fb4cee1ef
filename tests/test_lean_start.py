"""What a run imports, and that nothing is missing for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lit_optim.tasks.classification import Mnist1d

ROOT = Path(__file__).parent.parent
#: Packages, and parts of packages, that a run of the defaults has no use for.
NOT_NEEDED = (
    "accelerate", "huggingface_hub", "IPython", "jsonargparse", "matplotlib", "mnist1d", "pandas",
    "pytorch_lightning", "scipy", "sklearn", "tensorboard.backend", "torchmetrics.functional",
    "torchvision", "transformers",
)  # fmt: skip
#: Shows that torchmetrics is whole as soon as more is asked of it, whatever is asked first.
USE = """
import os, sys
from lit_optim.lean_start import start_lean
start_lean()
import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import Metric
import torchmetrics
before = {"scipy", "torchmetrics.functional"} & {*sys.modules}
assert not before, before
assert torchmetrics.__version__.count(".") >= 2
assert torchmetrics.Metric is Metric
assert "matplotlib" not in sys.modules
from torchmetrics.aggregation import MeanMetric
from torchmetrics.utilities import plot
import matplotlib
matplotlib.use("agg")
mean = MeanMetric()
mean.update(3.0)
figure, axes = mean.plot()
assert isinstance(axes, matplotlib.axes.Axes)
assert mean.plot(ax=axes)[1] is axes
assert plot.plot_curve.__doc__ and plot._AX_TYPE is matplotlib.axes.Axes
together = torchmetrics.MetricCollection([mean]).plot(ax=axes, together=True)
assert together[1] is axes
for first in ("from torchmetrics import Accuracy", "import torchmetrics.text"):
    child = os.fork()
    if child == 0:
        try:
            exec(first, {})
            accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
            [found] = torchmetrics.MetricCollection([accuracy]).values()
            assert isinstance(found, Metric)
            assert torchmetrics.functional.pairwise_cosine_similarity is not None
            assert not hasattr(torchmetrics, "no_such_metric")
            os._exit(0)
        except BaseException as error:
            print(first, repr(error), flush=True)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, first
"""


def test_a_run_imports_no_more_than_it_needs(tmp_path):
    Mnist1d().arrays()  # cached from here on
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "trainer.max_steps=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert {"torch", "lightning.pytorch", "torchmetrics.metric"} <= imported
    assert not [
        name for name in imported for other in NOT_NEEDED if f"{name}.".startswith(f"{other}.")
    ]


def test_all_of_torchmetrics_is_there_when_it_is_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
