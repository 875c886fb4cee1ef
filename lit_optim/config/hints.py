"""Suggests a key for an unknown one: by the names of other tools, and in other groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from lit_optim.errors import ALIKE, suggest

#: What other tools call it, in lower case without `_` and `-`.
ALIASES = {
    "trainer.max_epochs": "epoch epochs numepochs nepochs numtrainepochs maxepoch",
    "trainer.max_steps": "step steps numsteps totalsteps iters iterations maxiters maxstep",
    "trainer.max_time": "time maxminutes timeout",
    "optimizer.lr": "lr learningrate baselr initlr peaklr maxlr",
    "optimizer.weight_decay": "wd weightdecay decay l2",
    "optimizer.betas": "beta beta1 beta2 adambeta1 adambeta2",
    "optimizer.eps": "epsilon adamepsilon",
    "data.batch_size": "bs batch batchsize trainbatchsize perdevicetrainbatchsize",
    "scheduler.warmup": "warmup warmupsteps numwarmupsteps warmupratio warmupepochs",
    "scheduler": "schedule lrscheduler sched lrschedule lrschedulertype",
    "optimizer": "opt optim optimiser",
    "model": "net network arch architecture modelname",
    "data": "dataset datamodule task",
    "trainer.devices": "gpu gpus ngpus numgpus device numdevices nprocpernode",
    "trainer.num_nodes": "nodes nnodes",
    "trainer.precision": "amp fp16 bf16 half dtype mixedprecision",
    "trainer.strategy": "ddp fsdp fsdp2 distributed",
    "trainer.accelerator": "cpu cuda mps",
    "trainer.accumulate_grad_batches": "accumulate accum accumulation gradaccum accumsteps "
    "gradientaccumulation gradientaccumulationsteps gradaccumsteps accumulationsteps",
    "trainer.gradient_clip_val": "clip gradclip clipgrad clipnorm clipgradnorm maxgradnorm "
    "gradientclip clipval",
    "trainer.log_every_n_steps": "logevery loginterval loggingsteps",
    "trainer.val_check_interval": "evalevery evalsteps valinterval evalinterval",
    "trainer.check_val_every_n_epoch": "valevery",
    "trainer.enable_progress_bar": "progress progressbar verbose quiet",
    "scheduler.min_lr_ratio": "minlr etamin lrmin minlrrate",
    "seed": "randomseed rngseed randomstate",
    "ckpt": "checkpoint ckptpath checkpointpath loadcheckpoint",
    "weights": "pretrained pretrainedweights init initfrom loadweights statedict finetunefrom",
    "resume": "resumefrom resumefromcheckpoint continue",
    "n_jobs": "jobs njobs workers",
    "monitor": "metric metrics metricforbestmodel",
    "search.trials": "trials ntrials numtrials maxtrials",
    "search.sampler": "sampler",
    "search.pruner": "pruner",
    "search.space": "space searchspace",
    "hydra.run.dir": "outputdir outdir output savedir logdir rundir dir workdir",
}
KEY_BY_ALIAS = {alias: key for key, names in ALIASES.items() for alias in names.split()}
#: A key of these groups is suggested only if no other group has one of that name.
SUGGESTED_LAST = ("callbacks", "logger")
MAX_SUGGESTIONS = 3
#: Top-level settings that an unknown key of a group never means.
NOT_SUGGESTED = ("cooldown",)  # works with branch_from only; schedules have a cooldown of their own


def dotted_keys(plain: Mapping[str, Any]) -> list[str]:
    """Every key of a configuration: `trainer.max_epochs` and so on, groups and mappings too."""
    return list(_iterate_keys("", plain))


def _iterate_keys(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        yield here
        if isinstance(value, Mapping):
            yield from _iterate_keys(here, value)


def suggest_other_group(key: str, keys: Sequence[str]) -> str:
    """The end of a message: a key of this name in another group, as a question; or nothing.

    Args:
        key: the unknown one.
        keys: all known ones.
    """
    last = _fold(key.rpartition(".")[2])
    same = [known for known in keys if _fold(known.rpartition(".")[2]) == last and known != key]
    same = [known for known in same if known not in NOT_SUGGESTED]
    found = [known for known in same if known.split(".")[0] not in SUGGESTED_LAST] or same
    if not found and last in KEY_BY_ALIAS:
        meant = KEY_BY_ALIAS[last]
        group = meant.partition(".")[0]
        exists = meant in keys or group in ("hydra", "search", "trainer")
        found = [meant] if exists and meant != key else []
    return f"; did you mean {' or '.join(found[:MAX_SUGGESTIONS])}?" if found else ""


def suggest_key(key: str, names: Sequence[str], keys: Sequence[str]) -> str:
    """Return the end of a message: a known key for an unknown top-level key, as a question.

    It has the same name in another group, or is spelled similarly.
    """
    near = suggest_other_group(key, keys) or suggest(key, names)
    if near:
        return near
    key_by_last_part = {known.rpartition(".")[2]: known for known in reversed(keys)}
    close = get_close_matches(key, key_by_last_part, n=MAX_SUGGESTIONS, cutoff=ALIKE)
    return (
        f"; did you mean {' or '.join(key_by_last_part[name] for name in close)}?" if close else ""
    )


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
