"""Finds where a value of a composed configuration comes from: a file, or the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.places import GLOBAL, conf_dir


@dataclass(frozen=True)
class Setting:
    """The value of a key in a file.

    Args:
        place: of the file among all, in the order in which they are merged.
        file: within its directory, such as `experiment/long`.
        key: such as `trainer.max_steps`.
        value: not null.
    """

    place: int
    file: str
    key: str
    value: Any


def files_setting(keys: Sequence[str], hydra: DictConfig) -> Iterator[Setting]:
    """The values of these keys in all files, in the order in which they are merged.

    Args:
        keys: of one group.
        hydra: Hydra's own part of the configuration.
    """
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield from files_setting(keys, hydra)
        return
    group = keys[0].partition(".")[0]
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    lines = [*typed_lines(hydra), *typed_lines(hydra, "hydra")]
    overrides, files = loader._parse_overrides_and_create_caching_repo("train", lines)
    loader._process_config_searchpath("train", overrides, files)
    found = create_defaults_list(files, "train", overrides, prepend_hydra=True, skip_missing=False)
    for place, default in enumerate(found.defaults):
        path = default.config_path or ""
        if path.partition("/")[0] not in (*GLOBAL, group, "train"):
            continue
        config = loader._load_single_config(default, files).config
        for key in keys:
            value = OmegaConf.select(config, key, throw_on_missing=False)
            if value is not None:
                yield Setting(place, path, key, value)


def is_typed(key: str, hydra: DictConfig) -> bool:
    """Whether the command line sets or removes a key."""
    return key in {line.lstrip("+~").partition("=")[0] for line in typed_lines(hydra)}


def typed_lines(hydra: DictConfig, part: str = "task") -> list[str]:
    """The overrides as typed; interpolations in them are not resolved.

    Args:
        hydra: Hydra's own part of a configuration.
        part: "task" for ours, "hydra" for Hydra's.
    """
    typed = OmegaConf.select(hydra, f"overrides.{part}")
    lines = [] if typed is None else OmegaConf.to_container(typed, resolve=False)
    assert isinstance(lines, list)
    return [str(line) for line in lines]
