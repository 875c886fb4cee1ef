"""The files of --config-dir, each checked before Hydra composes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from lit_optim.config.places import mapping_of, own_conf_dir, text_of
from lit_optim.errors import UsageError

SCHEME = "lit-optim"


class OwnFiles(FileConfigSource):
    """Hydra's source of files; refuses in one line what Hydra would fail on."""

    last: str | None = None  #: The file that was read last.

    @staticmethod
    def scheme() -> str:
        """What stands before `://` in Hydra's search path."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """As of the base class.

        Raises:
            UsageError: the file cannot be read, or does not hold keys and values.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        OwnFiles.last = str(path)
        if os.path.exists(path) and text_of(path).strip():
            _check_defaults(path, mapping_of(path).get("defaults", []))
        return super().load_config(config_path)


def own_search_path() -> str | None:
    """What --config-dir adds to Hydra's search path; None if it is not given."""
    SourcesRegistry.instance().register(OwnFiles)
    OwnFiles.last = None
    own = own_conf_dir()
    return None if own is None else f"{SCHEME}://{own}"


def _check_defaults(path: Path, defaults: Any) -> None:
    if not isinstance(defaults, list) or not all(map(_is_choice, defaults)):
        raise UsageError(f"{path}: defaults must be a list of choices, as in [adamw, _self_]")


def _is_choice(entry: Any) -> bool:
    """Whether an entry is `name`, `group: name` or `group: [name, name]`."""
    if not isinstance(entry, dict):
        return isinstance(entry, str)
    names = [name for x in entry.values() for name in (x if isinstance(x, list) else [x])]
    return not any(isinstance(name, list | dict) for name in names)
