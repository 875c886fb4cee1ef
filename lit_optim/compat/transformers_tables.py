"""transformers' names and ours: the keys of TrainingArguments, optimizers and schedules.

As of transformers 5; what version 4 had beside is marked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any


@dataclass(frozen=True)
class Arguments:
    """What is translated, with transformers' defaults."""

    optim: str = "adamw_torch"
    optim_args: str | Mapping[str, Any] | None = None
    adafactor: bool = False  # version 4
    learning_rate: Annotated[float, "> 0"] = 5e-5
    weight_decay: Annotated[float, ">= 0"] = 0.0
    adam_beta1: Annotated[float, "in [0, 1)"] = 0.9
    adam_beta2: Annotated[float, "in [0, 1)"] = 0.999
    adam_epsilon: Annotated[float, "> 0"] = 1e-8
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: str | Mapping[str, Any] | None = None
    warmup_steps: Annotated[float, ">= 0"] = 0
    warmup_ratio: Annotated[float, "in [0, 1)"] | None = None  # version 4
    max_grad_norm: Annotated[float, ">= 0"] | None = 1.0
    max_steps: int = -1
    num_train_epochs: Annotated[float, "> 0"] = 3.0
    gradient_accumulation_steps: Annotated[int, "> 0"] = 1
    seed: Annotated[int, "in [0, 4294967295]"] = 42
    bf16: bool = False
    fp16: bool = False
    metric_for_best_model: str | None = None


#: Which keys decide what is one choice here.
DECIDE = {
    "optimizer": ("optim", "optim_args", "adafactor", "learning_rate", "weight_decay",
                  "adam_beta1", "adam_beta2", "adam_epsilon"),
    "scheduler": ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
}  # fmt: skip

#: `optim`, and ours that makes the same steps: those of other hardware have the same formulas.
OPTIMS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_anyprecision": "adamw",  # its state is float32 unless optim_args say otherwise
    "adamw_apex_fused": "adamw",  # version 4
    "adamw_hf": "adamw_hf",  # version 4
    "sgd": "sgd",
    "adagrad": "adagrad",
    "rmsprop": "rmsprop",
    "adafactor": "adafactor_hf",
}
#: What transformers puts around the name of an algorithm.
VARIANT = re.compile(r"^paged_|_layerwise$|_(8|32)bit")
#: What the Trainer hands on of optim_args. Their weight_decay never takes effect: its groups have
#: one of their own.
HANDED_ON = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
}
IN_8_BITS = "with optimizer.state_dtype=int8"
IN_32_BITS = "with its state in 32 bits"
IN_FULL = "with its state in full rank"
#: `optim` that is not here: the nearest that is, and how that differs.
NEAREST = {
    name: (nearest, how)
    for nearest, how, names in (
        ("adamw_torch", IN_32_BITS, "adamw_torch_4bit"),
        ("adamw_torch", IN_8_BITS, "adamw_torch_8bit adamw_8bit adamw_bnb_8bit paged_adamw_8bit"),
        ("adamw_torch", "without paging", "paged_adamw_32bit"),
        ("adamw_torch", "with one average of the gradient", "ademamix ademamix_8bit"),
        ("adamw_torch", "with one average of the gradient", "paged_ademamix_32bit"),
        ("adamw_torch", "with one average of the gradient", "paged_ademamix_8bit"),
        ("adamw_torch", "with 3 to 10 times the lr", "lion_32bit lion_8bit"),
        ("adamw_torch", "with 3 to 10 times the lr", "paged_lion_32bit paged_lion_8bit"),
        ("adamw_torch", IN_FULL, "galore_adamw galore_adamw_8bit galore_adamw_layerwise"),
        ("adamw_torch", IN_FULL, "galore_adamw_8bit_layerwise"),
        ("adamw_torch", IN_FULL, "apollo_adamw apollo_adamw_layerwise"),
        ("adafactor", IN_FULL, "galore_adafactor galore_adafactor_layerwise"),
        ("adamw_torch", "without its filter of the gradient", "grokadamw"),
        ("adamw_torch", "without its clipping of the update", "stable_adamw"),
        ("adamw_torch", "with a schedule", "schedule_free_adamw schedule_free_radam"),
        ("sgd", "with a schedule", "schedule_free_sgd"),
        ("sgd", "with all gradients in memory", "lomo"),
        ("adafactor", "with all gradients in memory", "adalomo"),
        ("rmsprop", "which is torch's", "rmsprop_bnb rmsprop_bnb_32bit rmsprop_bnb_8bit"),
    )
    for name in names.split()
}


def same(names: str) -> dict[str, str]:
    """Arguments that are called alike."""
    return {name: name for name in names.split()}


@dataclass(frozen=True)
class Row:
    """A schedule of transformers here.

    Args:
        ours: its name.
        warmup: the key of its warmup, or "" for none.
        arguments: what lr_scheduler_kwargs may have, and what ours call it.
        fixed: transformers' values where our defaults are others.
        one_of: of these exactly one must be given.
        ignores: transformers takes lr_scheduler_kwargs and does nothing with them.
    """

    ours: str
    warmup: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    ignores: bool = False


START = {"step_alignment": "start"}
SCHEDULES = {
    "linear": Row("linear_warmup", "warmup", fixed=START),
    "cosine": Row("cosine_warmup", "warmup", same("num_cycles"), START),
    "cosine_with_restarts": Row("cosine_with_restarts", "num_warmup_steps", same("num_cycles")),
    "polynomial": Row(
        "polynomial", "warmup", {"lr_end": "min_lr", "power": "power"}, {"min_lr": 1e-7} | START
    ),
    "constant": Row("constant", ignores=True),
    "constant_with_warmup": Row("constant_with_warmup", "num_warmup_steps", ignores=True),
    "inverse_sqrt": Row("inverse_sqrt", "warmup", same("timescale"), START),
    "reduce_lr_on_plateau": Row(
        "reduce_lr_on_plateau",
        arguments=same("mode factor patience threshold threshold_mode cooldown min_lr eps"),
        fixed={"mode": "min"},
    ),
    "cosine_with_min_lr": Row(
        "cosine_with_min_lr",
        "num_warmup_steps",
        same("num_cycles min_lr min_lr_rate"),
        one_of=("min_lr", "min_lr_rate"),
    ),
    "cosine_warmup_with_min_lr": Row(
        "cosine_warmup_with_min_lr",
        "num_warmup_steps",
        same("num_cycles min_lr min_lr_rate warmup_lr_rate"),
        one_of=("min_lr", "min_lr_rate"),
    ),
    "warmup_stable_decay": Row(
        "warmup_stable_decay",
        "num_warmup_steps",
        same("num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles"),
        one_of=("num_decay_steps",),
    ),
    "greedy": Row(
        "greedy",
        arguments=same(
            "mode factor patience threshold threshold_mode cooldown warmup min_lr max_lr eps "
            "smooth window_size reset_start"
        ),
        fixed={"mode": "min", "min_lr": 1e-3, "max_lr": 1.0},
    ),
}
#: `cosine` with another number of waves than the half one of ours.
WAVES = Row("cosine_with_min_lr", "num_warmup_steps", same("num_cycles"), {"min_lr_rate": 0.0})

#: What says here what these say there. The batch is the data's: here it is that of all devices.
HERE = {
    "per_device_train_batch_size": "data.batch_size",
    "logging_steps": "trainer.log_every_n_steps",
    "eval_steps": "trainer.val_check_interval",
    "eval_strategy": "trainer.check_val_every_n_epoch",
    "output_dir": "hydra.run.dir",
    "load_best_model_at_end": "ckpt=best",
    "full_determinism": "trainer.deterministic",
    "data_seed": "seed",
    "use_cpu": "trainer=cpu",
    "fsdp": "trainer=fsdp",
}
#: Keys that say where to write, what to show, and how to be fast or small: not what is trained.
HARMLESS = re.compile(
    r"(log|logging|save|eval|evaluation|hub|push_to_hub|ddp|fsdp|trackio|do|use|include|bf16|fp16"
    r"|dataloader(?!_drop_last)|disable|skip|torch|half|enable_jit|ray|restore_callback)_.*"
    r"|(gradient|activation)_checkpointing(_kwargs)?|(overwrite_)?output_dir|report_to|run_name"
    r"|push_to_hub|project|debug|batch_eval_metrics|prediction_loss_only|greater_is_better"
    r"|per_device_eval_batch_size|label_names|length_column_name|remove_unused_columns|past_index"
    r"|average_tokens_across_devices|accelerator_config|liger_kernel_config|tf32|local_rank"
    r"|(_n|n)_gpu|no_cuda|ignore_data_skip"
)
#: For the others, these values mean nothing, like an empty or false one.
USUAL = {"train_sampling_strategy": "random"}
