"""The length of a run: of several files and the command line the most specific one decides."""

from __future__ import annotations

import re
import sys
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from lit_optim.config.origin import files_setting, is_typed
from lit_optim.config.places import groups, text_of
from lit_optim.run_length import UNLIMITED

#: What may set the length of a run, from the least to the most specific: the base trainer, the
#: preset of the data, the chosen trainer, and so on up to the command line.
INHERITED, PRESET, CHOSEN = 0, 1, 2
GROUPS = {"preset": PRESET, "batch": 3, "experiment": 4, "debug": 5}
TYPED = 6
BASE = "cpu"  # the trainer that the others inherit from
STEPS, EPOCHS = "max_steps", "max_epochs"
LENGTH = re.compile(rf"^ *({STEPS}|{EPOCHS}) *:", re.MULTILINE)

#: How specific a value is, and the value.
RankedLength = tuple[tuple[int, int], Any]


def resolve_length(cfg: DictConfig, hydra: DictConfig) -> None:
    """Let the more specific of `trainer.max_steps` and `trainer.max_epochs` decide alone.

    The command line is more specific than an experiment, an experiment than the chosen trainer, and
    that one than its base. Where one place sets both, the run ends at whichever comes first.

    Args:
        cfg: a configuration that Hydra has composed, and is still initialized for; changed.
        hydra: Hydra's own part of it.
    """
    trainer = cfg.get("trainer")
    if not isinstance(trainer, DictConfig):
        return
    values = {key: trainer.get(key) for key in (STEPS, EPOCHS)}
    typed = _typed_lengths(cfg, hydra)
    is_endless = typed == {EPOCHS: -1}
    both = values[STEPS] not in UNLIMITED and values[EPOCHS] not in UNLIMITED
    ranked: dict[str, RankedLength] = {}
    if _may_be_overruled(hydra) or (both and not typed) or is_endless:
        ranked = _lengths_of_files(hydra)
    ranked |= {key: ((TYPED, 0), value) for key, value in typed.items()}
    values |= {key: value for key, (_, value) in ranked.items()}
    ranks = {key: ranked[key][0] if key in ranked else (INHERITED, 0) for key in (STEPS, EPOCHS)}
    if all(value not in UNLIMITED for value in values.values()) and ranks[STEPS] != ranks[EPOCHS]:
        values |= {STEPS: -1} if ranks[STEPS] < ranks[EPOCHS] else {EPOCHS: None}
    if is_endless and ranks[STEPS] <= (PRESET, sys.maxsize):  # a default must not end it
        values[STEPS] = -1
    with read_write(cfg), open_dict(cfg):
        for key, value in values.items():
            if trainer.get(key) != value:
                cfg.trainer[key] = value


def _typed_lengths(cfg: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """What was typed; None where a key is removed."""
    keys = (STEPS, EPOCHS)
    return {key: cfg.trainer.get(key) for key in keys if is_typed(f"trainer.{key}", hydra)}


def _may_be_overruled(hydra: DictConfig) -> bool:
    """Whether a preset may have overridden what the chosen trainer says."""
    choice = str(hydra.runtime.choices.get("trainer"))
    path = groups().get("trainer", {}).get(choice)
    return choice != BASE and path is not None and bool(LENGTH.search(text_of(path)))


def _lengths_of_files(hydra: DictConfig) -> dict[str, RankedLength]:
    """The value of each key in the most specific file that has it."""
    choice = str(hydra.runtime.choices.get("trainer"))
    ranked: dict[str, RankedLength] = {}
    for one in files_setting([f"trainer.{key}" for key in (STEPS, EPOCHS)], hydra):
        key, rank = one.key.partition(".")[2], (_rank(one.file, choice), one.place)
        if key not in ranked or rank > ranked[key][0]:
            ranked[key] = rank, one.value
    return ranked


def _rank(path: str, trainer: str) -> int:
    """How specific a file is."""
    group, _, name = path.partition("/")
    if group == "trainer":
        return CHOSEN if name == trainer != BASE else INHERITED
    return GROUPS.get(group, INHERITED)
