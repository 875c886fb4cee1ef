"""How long a run is, where several files and the command line say so: the most specific decides."""

from __future__ import annotations

import re
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.config.places import groups, text_of

#: Who may set the length of a run, from the least to the most specific: the trainer that others are
#: made from, what suits the data, the trainer that was chosen, and so on to what was typed.
INHERITED, PRESET, CHOSEN = 0, 1, 2
GROUPS = {"preset": PRESET, "batch": 3, "experiment": 4, "debug": 5}
TYPED = 6
BASE = "cpu"  # the trainer that the others are made from
STEPS, EPOCHS = "max_steps", "max_epochs"
NONE: tuple[Any, ...] = (None, -1)
LENGTH = re.compile(rf"^ *({STEPS}|{EPOCHS}) *:", re.MULTILINE)

#: How specific a value is, and the value.
Said = tuple[tuple[int, int], Any]


def settle_length(cfg: DictConfig, hydra: DictConfig) -> None:
    """Let the more specific of `trainer.max_steps` and `trainer.max_epochs` decide alone.

    Typed is more specific than an experiment, an experiment more than the trainer that is chosen,
    and that more than what it is made from. Where one place sets both, the run ends at the first.

    Args:
        cfg: a configuration that Hydra, which is initialized, has composed.
        hydra: Hydra's own part of it.
    """
    trainer = cfg.get("trainer")
    if not isinstance(trainer, DictConfig):
        return
    values = {key: trainer.get(key) for key in (STEPS, EPOCHS)}
    both = values[STEPS] not in NONE and values[EPOCHS] not in NONE
    typed = _typed(cfg, hydra)
    said: dict[str, Said] = {}
    if _may_be_overruled(hydra) or (both and not typed):
        said = _said(hydra)
    said |= {key: ((TYPED, 0), value) for key, value in typed.items()}
    values |= {key: value for key, (_, value) in said.items()}
    ranks = {key: said[key][0] if key in said else (INHERITED, 0) for key in (STEPS, EPOCHS)}
    if all(value not in NONE for value in values.values()) and ranks[STEPS] != ranks[EPOCHS]:
        values |= {STEPS: -1} if ranks[STEPS] < ranks[EPOCHS] else {EPOCHS: None}
    with read_write(cfg), open_dict(cfg):
        for key, value in values.items():
            if trainer.get(key) != value:
                cfg.trainer[key] = value


def _typed(cfg: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """What the command line says."""
    typed = {}
    for line in hydra.overrides.task:
        name = str(line).lstrip("+~").partition("=")[0]
        if name in (f"trainer.{STEPS}", f"trainer.{EPOCHS}"):
            key = name.partition(".")[2]
            typed[key] = cfg.trainer.get(key)  # null where it is taken out
    return typed


def _may_be_overruled(hydra: DictConfig) -> bool:
    """Whether what suits the data may have taken the place of what the chosen trainer says."""
    choice = str(hydra.runtime.choices.get("trainer"))
    path = groups().get("trainer", {}).get(choice)
    return choice != BASE and path is not None and bool(LENGTH.search(text_of(path)))


def _said(hydra: DictConfig) -> dict[str, Said]:
    """What the most specific file says of each key."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    lines = [*hydra.overrides.task, *hydra.overrides.hydra]
    overrides, files = loader._parse_overrides_and_create_caching_repo("train", lines)
    found = create_defaults_list(files, "train", overrides, prepend_hydra=True, skip_missing=False)
    choice = str(hydra.runtime.choices.get("trainer"))
    said: dict[str, Said] = {}
    for index, default in enumerate(found.defaults):
        rank = _rank(default.config_path or "", choice)
        if rank is None:
            continue
        config = loader._load_single_config(default, files).config
        for key in (STEPS, EPOCHS):
            value = OmegaConf.select(config, f"trainer.{key}", throw_on_missing=False)
            if value is not None and ((rank, index) > said[key][0] if key in said else True):
                said[key] = (rank, index), value
    return said


def _rank(path: str, trainer: str) -> int | None:
    """How specific a file is; None for one that says nothing of a trainer."""
    group, _, name = path.partition("/")
    if group == "trainer":
        return CHOSEN if name == trainer != BASE else INHERITED
    return INHERITED if path == "train" else GROUPS.get(group)
