"""Loggers get the hyperparameters at the start of a run and its metrics however it ends."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import open_dict, read_write
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2, backend_context, plugin_data_pb2

from lit_optim.app import choices_of
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.lr import tuned_lrs
from lit_optim.errors import TrainingFailed
from lit_optim.lightning.hparams import run_name_argument
from lit_optim.runs.run import Interrupted, run

QUICK = ["data=digits", "model=mlp", "trainer.max_steps=4", "trainer.enable_progress_bar=false",
         "trainer.enable_model_summary=false"]  # fmt: skip
HERE = "tests.lightning.test_hparams"


class Fake(Logger):
    """Records what it gets, as W&B's and MLflow's loggers send it to a server."""

    calls = ()

    def __init__(self, run_name=None, project="p"):
        super().__init__()
        Fake.calls = [("name", run_name)]

    name = "fake"
    version = None

    def log_hyperparams(self, params, *args, **kwargs):
        Fake.calls.append(("hparams", params))

    def log_metrics(self, metrics, step=None):
        Fake.calls.append(("metrics", metrics))

    def finalize(self, status):
        Fake.calls.append(("end", status))


class Broken(Fake):
    def log_hyperparams(self, params, *args, **kwargs):
        raise RuntimeError("no server")


class Watch(Callback):
    """What TensorBoard would show at the first update; and then an end of some kind."""

    seen = None
    end = None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if Watch.seen is None:
            Watch.seen = read(trainer.default_root_dir)
        if Watch.end is not None and batch_idx == 2:
            raise Watch.end


def read(directory):
    """Content of the HPARAMS plugin by run and tag, and the columns in TensorBoard's order."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(directory))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(directory))
    context = backend_context.Context(SimpleNamespace(data_provider=provider))
    request = RequestContext()
    content = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, content, [])
    runs = {
        run: {
            tag.rpartition("/")[2]: plugin_data_pb2.HParamsPluginData.FromString(data)
            for tag, data in tags.items()
        }
        for run, tags in content.items()
    }
    return runs, experiment


def start(tmp_path, *argv, name="run"):
    where = tmp_path / name
    cfg = compose_config(prepare_command_line([*QUICK, *argv]).argv)
    with read_write(cfg.hydra), open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(where)
        HydraConfig.instance().set_config(cfg)
        hydra = cfg.pop("hydra")
    return run(cfg, where, choices_of(hydra), list(hydra.overrides.task))


def logging_to(kind):
    return [f"+logger.fake._target_={HERE}.{kind.__name__}", "allow=[tests]"]


@pytest.fixture(autouse=True)
def _watch():
    Watch.seen = Watch.end = None


WATCH = [f"callbacks.watch._target_={HERE}.Watch", "allow=[tests]"]


def columns(experiment):
    return [info.name for info in experiment.hparam_infos]


def shown_values(session):
    infos = session["session_start_info"].session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in infos.items()}


def test_columns_begin_with_what_was_chosen_and_typed(tmp_path):
    argv = ["trainer.gradient_clip_val=0.5", "param_groups=layer_decay", "param_groups.decay=0.9"]
    start(tmp_path, *argv, *WATCH)
    (runs, experiment) = read(tmp_path)
    typed = {"optimizer", "scheduler", "seed", "data", "model", "trainer.max_steps",
             "trainer.gradient_clip_val", "param_groups", "param_groups.decay",
             "trainer.enable_progress_bar", "trainer.enable_model_summary"}  # fmt: skip
    assert columns(experiment)[: len(typed)] == sorted(typed)
    [session] = runs.values()
    values = shown_values(session)
    assert values["trainer.gradient_clip_val"] == 0.5
    assert values["param_groups.decay"] == 0.9
    assert (values["optimizer"], values["seed"]) == ("adamw", 0)
    assert values["optimizer.lr"] == tuned_lrs("digits")["adamw"]  # a default of the data's preset
    assert not any("_target_" in key for key in values)
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["val/acc", "val/loss", "~test/acc", "~test/loss"]  # the monitor first
    assert [info.display_name for info in experiment.metric_infos][2:] == ["test/acc", "test/loss"]
    status = session["session_end_info"].session_end_info.status
    assert status == api_pb2.STATUS_SUCCESS
    hparams = (tmp_path / "run" / "hparams.yaml").read_text()
    assert "gradient_clip_val" in hparams

    (early, _) = Watch.seen  # at the first update
    [session] = early.values()
    assert shown_values(session) == values
    assert "session_end_info" not in session


def test_of_several_runs_what_differs_comes_first(tmp_path):
    for optimizer, clip in (("adamw", 1.0), ("sgd", 2.0)):
        start(tmp_path, f"optimizer={optimizer}", f"trainer.gradient_clip_val={clip}",
              name=optimizer)  # fmt: skip
    (runs, experiment) = read(tmp_path)
    assert len(runs) == 2
    assert {"optimizer", "scheduler", "seed", "trainer.gradient_clip_val"} <= set(
        columns(experiment)[:9]
    )
    assert "batch" not in columns(experiment)[:5]


@pytest.mark.parametrize(
    ("end", "raised", "status"),
    [(KeyboardInterrupt(), Interrupted, api_pb2.STATUS_UNKNOWN),  # it may go on
     (TrainingFailed("nan"), TrainingFailed, api_pb2.STATUS_FAILURE),
     (RuntimeError("my own"), RuntimeError, api_pb2.STATUS_FAILURE)],
    ids=["interrupted", "failed", "own"],
)  # fmt: skip
def test_a_run_that_ends_early_is_logged_too(tmp_path, end, raised, status):
    Watch.end = end
    with pytest.raises(raised):
        start(tmp_path, *WATCH, *logging_to(Fake), "trainer.val_check_interval=1")
    (runs, experiment) = read(tmp_path)
    [session] = runs.values()
    end = session.get("session_end_info")
    assert (end.session_end_info.status if end else api_pb2.STATUS_UNKNOWN) == status
    assert shown_values(session)["optimizer"] == "adamw"
    assert "val/acc" in {info.name.tag for info in experiment.metric_infos}
    assert ("end", "failed") in Fake.calls
    assert "best/val_acc" in Fake.calls[-2][1]


def test_other_loggers(tmp_path, caplog):
    start(tmp_path, *logging_to(Fake))
    assert Fake.calls[0] == ("name", "run")
    kind, params = Fake.calls[1]  # before any metric
    assert kind == "hparams"
    assert list(params)[:3] == ["optimizer", "scheduler", "seed"]
    assert params["trainer.max_steps"] == 4
    finals = [metrics for kind, metrics in Fake.calls if kind == "metrics"]
    assert {"final/val_acc", "best/val_acc", "final/test_acc"} <= finals[-1].keys()
    start(tmp_path, *logging_to(Fake), "+logger.fake.run_name=mine", name="second")
    assert Fake.calls[0] == ("name", "mine")


def test_one_that_cannot_take_them_ends_nothing(tmp_path, caplog):
    assert start(tmp_path, *logging_to(Broken)).steps == 4
    assert "Broken did not accept the hyperparameters or metrics: no server" in caplog.text


def test_which_argument_names_a_run():
    def wandb(self, name=None, save_dir=".", version=None):
        pass

    def mlflow(self, experiment_name="x", run_name=None):
        pass

    def tensorboard(self, save_dir, name="lightning_logs"):
        pass

    find = functools.partial(run_name_argument, given={})
    assert find(type("W", (), {"__init__": wandb})) == "name"
    assert find(type("M", (), {"__init__": mlflow})) == "run_name"
    assert find(type("T", (), {"__init__": tensorboard})) is None
    assert run_name_argument(type("W", (), {"__init__": wandb}), {"name": "mine"}) is None
