"""Runs of transformers' Trainer on a small model, with what the Trainer is given."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.data import Dataset

from lit_optim import hf, schedules
from tests.clients import formulas
from tests.clients.conftest import import_client

transformers = import_client("transformers")
import_client("accelerate")

STEPS, BATCH, LENGTH, WORDS = 8, 2, 6, 16


class Trainer(hf.TrainerMixin, transformers.Trainer):
    """As a user of transformers writes it."""


class Text(Dataset):
    """The same words again and again, which a model learns at once."""

    def __init__(self, count=STEPS * BATCH, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.randint(0, WORDS // 2, (count, LENGTH), generator=generator)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Seen(transformers.TrainerCallback):
    """The lrs of every update."""

    def __init__(self):
        self.lrs = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def arguments(path, **given):
    quiet = {
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    return transformers.TrainingArguments(str(path), **(quiet | given))


def make_trainer(path, kind=Trainer, model=None, given=None, callbacks=(), **kwargs):
    return kind(
        model or gpt2(),
        arguments(path, **(given or {})),
        train_dataset=Text(),
        eval_dataset=Text(BATCH, seed=1),
        callbacks=list(callbacks),
        **kwargs,
    )


def train(path, resume=None, **kwargs):
    """Train, and return the trainer and the lrs of the first group at each update."""
    seen = Seen()
    trainer = make_trainer(path, callbacks=[seen, *kwargs.pop("callbacks", ())], **kwargs)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, [lrs[0] for lrs in seen.lrs]


COSINE = partial(schedules.cosine_warmup, 2)
cosine = partial(formulas.cosine, steps=STEPS)
