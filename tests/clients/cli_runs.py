"""Command lines of LightningCLI, run in this process."""

from __future__ import annotations

from functools import partial

import yaml

from lit_optim.config.places import groups
from tests.clients import formulas
from tests.clients.conftest import import_client
from tests.lightning.modules import Data, Plain

import_client("jsonargparse")

from lit_optim.lightning.cli import LitOptimCLI  # noqa: E402

STEPS = 10
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
TRAINER = dict.fromkeys(QUIET, False) | {"max_epochs": 1, "accelerator": "cpu"}
OPTIMIZERS = sorted(set(groups()["optimizer"]) - {"custom"})
linear = partial(formulas.linear, steps=STEPS)
cosine = partial(formulas.cosine, steps=STEPS)


def run(cli=LitOptimCLI, model=Plain, argv=(), data=Data, **kwargs):
    """Run a CLI in this process, with a trainer that is quiet."""
    kwargs = {
        "trainer_defaults": TRAINER,
        "seed_everything_default": 1,
        "save_config_callback": None,
    } | kwargs
    return cli(model, data, args=list(argv), **kwargs)


def round_trip(parser, *argv):
    """Parse; what is dumped is read as the same."""
    config = parser.parse_args(list(argv))
    dumped = parser.dump(config, skip_none=False)
    assert parser.dump(parser.parse_string(dumped), skip_none=False) == dumped
    return config, yaml.safe_load(dumped)
