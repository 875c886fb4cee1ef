"""The optimizer's lr: where it comes from, and which optimizers take that of a preset."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from lit_optim.config.origin import files_setting, is_typed
from lit_optim.config.places import groups, mapping_of, text_of

KEY = "optimizer.lr"
MORE_SPECIFIC = ("batch", "experiment", "debug")  # than a preset
#: The lr of a preset is one for AdamW. These optimizers take steps of the same size, about lr per
#: coordinate; the others keep their own lr.
LIKE_ADAMW = (
    "adam",
    "adam_weight_decay",
    "adamw",
    "adamw_hf",
    "ademamix",
    "adopt",
    "laprop",
    "nadam",
    "nadamw",
    "sparse_adam",
    "stable_adamw",
)
SETS_LR = re.compile(r"^ +lr *:", re.MULTILINE)
#: A file that includes another one, other than by `override /group: choice`.
INCLUDES = re.compile(r"^ *- (?!override\b)\S", re.MULTILINE)


def resolve_lr(cfg: DictConfig, hydra: DictConfig) -> None:
    """Let an optimizer that is not like AdamW keep its own lr, not that of a preset.

    Args:
        cfg: a configuration that Hydra has composed, and is still initialized for; changed.
        hydra: Hydra's own part of it.
    """
    choice = str(hydra.runtime.choices.get("optimizer"))
    if choice in LIKE_ADAMW or "preset" not in _who_may_set(hydra) or is_typed(KEY, hydra):
        return
    if not isinstance(cfg.get("optimizer"), DictConfig):
        return
    known, value = _without_preset(choice, hydra)
    with read_write(cfg), open_dict(cfg):
        if known:
            cfg.optimizer.lr = value
        else:  # a class of the user's own gets only what is typed
            cfg.optimizer.pop("lr", None)


def lr_origin(hydra: DictConfig) -> str:
    """Where the lr comes from: typed, a preset, an experiment and so on, or the default."""
    if is_typed(KEY, hydra):
        return "typed"
    choice = str(hydra.runtime.choices.get("optimizer"))
    found = "default"
    if any(map(INCLUDES.search, _texts(hydra))):
        files = [one.file for one in files_setting([KEY], hydra)]
        group, _, name = files[-1].partition("/") if files else ("", "", "")
        if group in MORE_SPECIFIC:
            return f"{group} {name}"
    for group in _who_may_set(hydra):
        if group != "preset" or choice in LIKE_ADAMW:
            found = f"{group} {hydra.runtime.choices[group]}"
    return found


def _who_may_set(hydra: DictConfig) -> list[str]:
    """The groups whose choice sets the lr; the last one decides."""
    found = []
    for group in ("preset", *MORE_SPECIFIC):
        path = groups().get(group, {}).get(str(hydra.runtime.choices.get(group)))
        text = "" if path is None else text_of(path)
        said = mapping_of(path).get("optimizer") if path and SETS_LR.search(text) else None
        if isinstance(said, dict) and "lr" in said:
            found.append(group)
    return found


def _without_preset(choice: str, hydra: DictConfig) -> tuple[bool, Any]:
    """Whether a file other than the preset sets the lr, and the value."""
    path, texts = groups()["optimizer"].get(choice), _texts(hydra)
    if path is not None and not any(SETS_LR.search(x) or INCLUDES.search(x) for x in texts):
        own = mapping_of(path)  # the usual case, without Hydra
        if "lr" in own:
            return True, own["lr"]
    found = files_setting([KEY], hydra)
    values = [one.value for one in found if not one.file.startswith("preset/")]
    return bool(values), values[-1] if values else None


def _texts(hydra: DictConfig) -> list[str]:
    """The texts of the chosen files that override an optimizer's own."""
    chosen = {group: str(hydra.runtime.choices.get(group)) for group in MORE_SPECIFIC}
    return [text_of(groups()[g][name]) for g, name in chosen.items() if name in groups().get(g, {})]
