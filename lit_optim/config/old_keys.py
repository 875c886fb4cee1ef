"""Settings that were renamed: files and command lines may still use their old names."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.moved_names import MOVED_KEYS


def rename_override(line: str) -> str:
    """Return an override with the current name of its key."""
    key, equals, value = line.partition("=")
    name = key.lstrip("+~")
    prefix = key[: len(key) - len(name)]
    return f"{prefix}{MOVED_KEYS.get(name, name)}{equals}{value}"


def rename_old_keys(cfg: DictConfig) -> None:
    """Give every setting in a composed configuration its current name."""
    for old, new in MOVED_KEYS.items():
        (place, _, key), (new_place, _, new_key) = old.rpartition("."), new.rpartition(".")
        node = OmegaConf.select(cfg, place) if place else cfg
        if not isinstance(node, DictConfig) or key not in node:
            continue
        with read_write(cfg), open_dict(cfg):
            OmegaConf.update(cfg, f"{new_place}.{new_key}", node.pop(key), force_add=True)
