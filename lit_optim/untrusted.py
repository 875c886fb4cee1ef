"""Reads files that this process did not write: run directories, records, arguments of other tools.

Such a file is untrusted data. It may be a FIFO, a device, a gigabyte, a list where a mapping is
expected, or YAML that expands without end. Each of these gives an error of one line; no reader here
blocks, recurses without bound or raises anything else.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lit_optim.errors import UsageError, first_line

#: No record, configuration or argument file of ours comes near this size, in bytes.
MAX_BYTES = 16 << 20
#: Containers within containers.
MAX_DEPTH = 64
#: Values of a YAML file once its aliases are expanded.
MAX_VALUES = 100_000
#: An integer of more bits is no float; one of many more cannot be printed.
MAX_BITS = 1024


class Unreadable(UsageError):
    """A file that cannot be read as what it should be; the message names it and says why."""


def read_text(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> str:
    """Read a UTF-8 file.

    Raises:
        Unreadable: it is missing, no regular file, larger than `max_bytes`, or not UTF-8.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or 'cannot be read'}") from None
    except ValueError as error:  # a null byte in the name
        raise Unreadable(f"{path!r}: {error}") from None
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise Unreadable(f"{path}: {os.strerror(errno.EISDIR)}")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{path}: is not a regular file")
        if status.st_size > max_bytes:
            raise Unreadable(f"{path}: has {status.st_size:,} bytes, the limit is {max_bytes:,}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or 'cannot be read'}") from None
    finally:
        os.close(handle)
    if len(content) > max_bytes:  # it has grown since, or has no true size, as in /proc
        raise Unreadable(f"{path}: has more than {max_bytes:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{path}: is not UTF-8") from None


def walk(
    directory: Path, is_hidden_too: bool = False, is_strict: bool = False
) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Each directory in a directory, itself first, with its entries by name; no link is followed.

    Args:
        directory: however deep; `os.walk` would recurse.
        is_hidden_too: whether directories with a dot in front are walked as well.
        is_strict: whether one that cannot be listed is an error; else it is left out.

    Raises:
        Unreadable: a directory cannot be listed, where that is an error.
    """
    waiting = [directory]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if is_strict and not isinstance(error, FileNotFoundError):  # removed meanwhile
                why = error.strerror or "cannot be listed"
                raise Unreadable(f"{folder}: {why}") from None
            continue
        yield folder, entries
        inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        waiting += [
            Path(entry.path)
            for entry in reversed(inner)
            if is_hidden_too or not entry.name.startswith(".")
        ]


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        Unreadable: as `read_text`, or it is not JSON, too deep, or has a number of too many digits.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else "is not valid JSON"
        raise Unreadable(f"{path}: {what}") from None
    check_values(path, value)
    return value


def read_json_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        Unreadable: as `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise Unreadable(f"{path}: must hold a JSON object, got {_kind(value)}")
    return value


def read_yaml(
    path: str | os.PathLike[str],
    load: Callable[[str], Any] | None = None,
    is_users: bool = False,
) -> Any:
    """Read a YAML file.

    Args:
        path: of the file.
        load: makes plain values of the text; by default `yaml.safe_load`.
        is_users: as for `read_yaml_text`.

    Raises:
        Unreadable: as `read_yaml_text`, or a value in it cannot be made: a date in month 13, a
            number that no float holds, a list as a key.
    """
    text = read_yaml_text(path, is_users)
    import yaml  # type: ignore[import-untyped]  # optimizers work without it

    try:
        value = (load or yaml.safe_load)(text)
    except Exception as error:  # loaders raise whatever the value at hand happens to lead to
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or first_line(error)
        raise Unreadable(f"{path}{where}: has a value that cannot be read: {why}") from None
    check_values(path, value)
    return value


def read_yaml_text(path: str | os.PathLike[str], is_users: bool = False) -> str:
    """Read a YAML file whose text is safe to hand to a YAML loader.

    Args:
        path: of the file.
        is_users: whether the user wrote it and chose it. Then aliases are allowed as long as they
            do not expand beyond `MAX_VALUES`, and tags are left to the loader.

    Raises:
        Unreadable: as `read_text`, or it is not YAML, uses aliases (a few lines of which expand to
            gigabytes), carries tags, or is nested too deeply.
    """
    import yaml

    text = read_text(path)
    values = 0  # so far, with those that aliases stand for
    begun: list[tuple[str | None, int]] = []  # collections: the anchor, and the values before it
    sizes: dict[str, int] = {}  # of what an anchor stands for
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if not is_users:
                    raise Unreadable(
                        f"{path}: YAML aliases (*name) are not read here; write it out"
                    )
                if any(anchor == event.anchor for anchor, _ in begun):
                    raise Unreadable(f"{path}: *{event.anchor} stands within itself")
                values += sizes.get(event.anchor, 1)
            elif getattr(event, "tag", None) is not None and not is_users:
                raise Unreadable(f"{path}: YAML tags ({event.tag}) are not read here")
            elif isinstance(event, yaml.CollectionStartEvent):
                begun.append((event.anchor, values))
                values += 1
            elif isinstance(event, yaml.ScalarEvent):
                values += 1
                if event.anchor:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = begun.pop()
                if anchor:
                    sizes[anchor] = values - before
            if len(begun) > MAX_DEPTH:
                raise Unreadable(f"{path}: is nested too deeply")
            if is_users and values > MAX_VALUES:
                raise Unreadable(f"{path}: holds more than {MAX_VALUES:,} values")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None)
        why = f": {problem}" if problem else ""
        raise Unreadable(f"{path}{where}: is not valid YAML{why}") from None
    return text


def check_values(path: str | os.PathLike[str], value: Any) -> None:
    """Refuse what could be read, and leads to errors wherever it is copied or printed.

    Args:
        path: of the file, or what else to call it in the message.
        value: of JSON or YAML.

    Raises:
        Unreadable: it is nested too deeply, or has a number of too many digits.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(isinstance(node, int) and node.bit_length() > MAX_BITS for node in level):
            raise Unreadable(f"{path}: has a whole number of too many digits")
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise Unreadable(f"{path}: is nested too deeply")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
