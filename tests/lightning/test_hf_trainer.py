"""What `hf...` gives, against transformers' own Trainer: the same parameters after 20 updates."""

from __future__ import annotations

import copy
import json
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import open_dict
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import lit_optim
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.targets import build, make_factory
from lit_optim.config.trainer import OWN_KEYS
from tests.sampling import sample

STEPS, BATCH = 20, 4
WARM = {"warmup_steps": 5}
#: optimizer, schedule and the rest as a user of transformers gives them
CASES = {
    "adamw_torch": WARM | {"optim": "adamw_torch"},
    "the default optimizer": WARM,
    "betas and epsilon": WARM | {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-3},
    "sgd": WARM | {"optim": "sgd"},
    "nesterov": {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True, weight_decay=9"},
    "adagrad": WARM | {"optim": "adagrad"},
    "adagrad with arguments": {"optim": "adagrad", "optim_args": "lr_decay=0.1,eps=1e-3"},
    "rmsprop": WARM | {"optim": "rmsprop"},
    "rmsprop with arguments": {
        "optim": "rmsprop",
        "optim_args": "momentum=0.5,alpha=0.9,eps=1e-3,centered=true",
    },
    "adafactor": WARM | {"optim": "adafactor"},
    "linear": {"lr_scheduler_type": "linear"},
    "a share of warmup": {"lr_scheduler_type": "linear", "warmup_steps": 0.11},
    "a share of epochs": {"warmup_steps": 0.11, "max_steps": -1, "num_train_epochs": 4},
    "cosine": WARM | {"lr_scheduler_type": "cosine"},
    "waves": WARM | {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1.25}},
    "cosine_with_restarts": WARM
    | {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
    "polynomial": WARM | {"lr_scheduler_type": "polynomial"},
    "polynomial with arguments": WARM
    | {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-3, "power": 2.0}},
    "constant": WARM | {"lr_scheduler_type": "constant"},
    "constant_with_warmup": WARM | {"lr_scheduler_type": "constant_with_warmup"},
    "inverse_sqrt": WARM | {"lr_scheduler_type": "inverse_sqrt"},
    "inverse_sqrt with timescale": WARM
    | {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 8}},
    "warmup_stable_decay": WARM
    | {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 7, "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
    },
    "cosine_with_min_lr": WARM
    | {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 2e-3}},
    "cosine_warmup_with_min_lr": WARM
    | {
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    },
    "reduce_lr_on_plateau": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "threshold": 0.2},
        "eval_strategy": "epoch",
    },
    "greedy": {
        "lr_scheduler_type": "greedy",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.1},
        "eval_strategy": "epoch",
    },
    "accumulation": WARM | {"gradient_accumulation_steps": 5},
    "without clipping": WARM | {"max_grad_norm": 0.0},
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Models as small as these only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Decayed and undecayed parameters of all kinds, in float64; gradients far above the clip."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.layers = nn.Sequential(nn.LayerNorm(8), nn.Tanh())
        self.bn = nn.GroupNorm(2, 8)  # decayed there, for neither its kind nor its name is known
        self.up_norm = nn.Linear(8, 8, bias=False)  # not decayed there, for its name
        self.scale = nn.Parameter(torch.ones(8))
        self.out = nn.Linear(8, 2)
        self.double()

    def forward(self, x, y):
        h = self.up_norm(self.bn(self.layers(self.first(x)))) * self.scale
        return {"loss": 30 * (self.out(h) - y).square().mean()}


class Examples(Dataset):
    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(5 * BATCH, 6, dtype=torch.float64, generator=generator)
        self.y = torch.stack([self.x.sum(1).sin(), self.x[:, 0] * self.x[:, 1]], 1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": self.y[index]}


class Seen(TrainerCallback):
    """The lr of every update of the Trainer."""

    def __init__(self):
        self.lrs = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.lrs.append(optimizer.param_groups[0]["lr"])


def theirs(model, arguments, path):
    seen = Seen()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(path),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            train_sampling_strategy="sequential",
            label_names=["y"],  # without which it validates no loss
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            **({"learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": STEPS} | arguments),
        ),
        train_dataset=Examples(1),
        eval_dataset=Examples(2),
        callbacks=[seen],
    )
    trainer.train()
    return seen.lrs


class Ours(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.lrs, self.norms = [], []

    def training_step(self, batch, batch_idx):
        return self.net(**batch)["loss"]

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(**batch)["loss"])

    def on_after_backward(self):
        self.norms.append(nn.utils.get_total_norm([p.grad for p in self.net.parameters()]).item())

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append(optimizer.param_groups[0]["lr"])


def typed(arguments):
    """On our command line; schedules' arguments as JSON, as transformers takes them there."""
    given = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": STEPS} | arguments
    given.pop("eval_strategy", None)
    texts = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in given.items()}
    return [f"hf.{key}={value}" for key, value in texts.items()]


def ours(net, argv):
    cfg = compose_config(prepare_command_line(argv).argv)
    module = Ours(net)
    module.configure_optimizers = partial(
        lit_optim.configure_optimizers,
        module,
        make_factory(cfg.optimizer),
        build(cfg.scheduler),
        make_factory(cfg.param_groups),
    )
    quiet = {"logger": False, "enable_checkpointing": False}
    cfg.trainer.enable_progress_bar = cfg.trainer.enable_model_summary = False
    with open_dict(cfg):
        for key in OWN_KEYS:  # which Lightning's Trainer does not have
            del cfg.trainer[key]
    train, validate = (DataLoader(Examples(seed), batch_size=BATCH) for seed in (1, 2))
    make_factory(cfg.trainer)(**quiet).fit(module, train, validate)
    return module


@pytest.mark.parametrize("case", sample(CASES, 12))
@pytest.mark.filterwarnings("ignore")
def test_the_same_parameters(case, tmp_path):
    net = Net()
    twin, before = copy.deepcopy(net), copy.deepcopy(net)
    torch.set_default_dtype(torch.float64)  # torch keeps some numbers of its state in this
    try:
        lrs = theirs(twin, CASES[case], tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    module = ours(net, typed(CASES[case]))
    assert len(lrs) == STEPS
    assert len(set(lrs)) > 1 or case == "constant"
    assert module.lrs == pytest.approx(lrs, rel=1e-9, abs=1e-14)
    assert min(module.norms) > 1  # every gradient is cut, where any is
    for (name, p), q, start in zip(
        net.named_parameters(), twin.parameters(), before.parameters(), strict=True
    ):
        assert not torch.equal(p, start), name
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10, msg=name)
