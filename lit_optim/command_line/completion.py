"""Completes a command line for the shell's tab key; reads files only.

Candidates are whole words, such as `optimizer=muon`. One that ends in `=`, `.` or `/` can be
continued.
"""

from __future__ import annotations

import os
import re
import shlex
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lit_optim.command_line.command import Argument, Command, Completion
from lit_optim.config.places import OPTION, PARTIAL, conf_dir, groups, text_of
from lit_optim.config.sweep_settings import SWEEP_GROUPS
from lit_optim.signatures import read_signature
from lit_optim.untrusted import Unreadable, read_yaml

PROGRAM, SCRIPT, MODULE = "lit-optim", "train.py", "lit_optim"
SETTINGS = "lit_optim.config.settings.Settings"
#: Where the settings of a whole sweep have their types.
SWEEP_SETTINGS = {
    "search": "lit_optim.search.data.Settings",
    "tournament": "lit_optim.results.tournament_record.TournamentSettings",
}
HF_ARGUMENTS = "lit_optim.compat.transformers_tables.Arguments"
#: Settings, and arguments of data, that are paths.
PATHS = ("resume", "resume.from", "ckpt", "branch_from", "hf", "hydra.run.dir", "hydra.sweep.dir")
#: Words that a setting accepts besides those of its annotation.
WORDS = {"resume": ("auto",), "resume.from": ("auto",), "resume.horizon": ("keep", "extend"),
         "ckpt": ("best",), "optimizer.lr": ("auto",)}  # fmt: skip
TARGET = "_target_"

#: The keys of a part of a configuration, each with its own keys or its annotation.
Keys = dict[str, Any]


#: The options of train.py, which parses its arguments itself.
#: Names of files without anything that a shell runs, expands or takes for two words.
PLAIN_NAME = re.compile(r"[\w@%+=:,.\[\]{}-]+")
TRAINING_OPTIONS = ("--multirun", "-m", "--help", "--version", OPTION)


def candidates(line: str, commands: Sequence[Command]) -> list[str]:
    """The words that the last word of a line may become.

    Args:
        line: up to the cursor.
        commands: the subcommands of `lit-optim`.
    """
    words = _split(line)
    if not words:
        return []
    word = words.pop()
    start = next((k for k, one in enumerate(words) if _is_program(words, k)), None)
    if start is None:
        return []
    is_lit_optim = os.path.basename(words[start]) == PROGRAM
    words = words[start + 1 :]
    if not is_lit_optim:
        return _complete_training(words, word)
    named = [one for one in words if not one.startswith("-")]
    if not named:
        listed = [command.name for command in commands if command.section is not None]
        return _matches(word, [*listed, "--help", "--version"])
    command = next((command for command in commands if command.name == named[0]), None)
    if command is None:
        return []
    words.remove(named[0])
    if command.is_raw:
        return _complete_training(words, word) if command.arguments else []
    return _complete_command(command, words, word)


def _split(line: str) -> list[str]:
    """The words of a line; the last one is empty after a space."""
    try:
        words = shlex.split(line)
    except ValueError:  # within a quotation
        words = line.split()
    return [*words, ""] if not line or line[-1].isspace() else words


def _is_program(words: list[str], k: int) -> bool:
    """Whether a word is our program: lit-optim, train.py, or the module after python -m."""
    if os.path.basename(words[k]) in (PROGRAM, SCRIPT):
        return True
    return words[k] == MODULE and k > 0 and words[k - 1] == "-m"


def _complete_training(words: list[str], word: str) -> list[str]:
    """What can follow after train.py."""
    if words and words[-1] == OPTION:
        return _paths(word)
    if word.startswith("-"):
        return _matches(word, TRAINING_OPTIONS)
    return _overrides(words, word)


def _complete_command(command: Command, words: list[str], word: str) -> list[str]:
    """What can follow after `lit-optim NAME`, by what its arguments declare."""
    options = {one.name: one for one in command.arguments if one.is_option}
    valued = {name for name, option in options.items() if not option.is_flag} | {OPTION}
    if words and words[-1] in valued:
        option = options.get(words[-1])
        return _paths(word) if option is None else _complete_argument(option, words, word)
    if word.startswith("-"):
        return _matches(word, ["--help", *options, OPTION])
    given = [
        one
        for before, one in zip(["", *words], words, strict=False)
        if not one.startswith("-") and before not in valued
    ]
    positional = [one for one in command.arguments if not one.is_option]
    if not positional:
        return []
    return _complete_argument(positional[min(len(given), len(positional) - 1)], words, word)


def _complete_argument(argument: Argument, words: list[str], word: str) -> list[str]:
    if argument.completion is Completion.OVERRIDES:
        return [*_extra_keys(argument.extra_keys, word), *_overrides(words, word)]
    if argument.completion is Completion.PATHS:
        return _paths(word)
    return _matches(word, groups()[argument.group] if argument.group else argument.choices)


def _extra_keys(keys: Mapping[str, Sequence[str]], word: str) -> list[str]:
    """The keys of a command itself, and the values of each, also after a comma."""
    key, equals, value = word.partition("=")
    if not equals:
        return _matches(word, [f"{known}=" for known in keys])
    before, comma, last = value.rpartition(",")
    return [f"{key}={before}{comma}{known}" for known in _matches(last, keys.get(key, ()))]


def _matches(word: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(word)]


def _overrides(words: list[str], word: str) -> list[str]:
    signs = re.match(r"[+~]*", word)
    sign = signs[0] if signs else ""
    key, equals, value = word.removeprefix(sign).partition("=")
    if equals:
        before, comma, last = value.rpartition(",")
        found = _values(words, key, last)
        return [f"{sign}{key}={before}{comma}{one}" for one in found]
    return [f"{sign}{one}" for one in _keys(words, key)]


def _keys(words: list[str], word: str) -> list[str]:
    """Keys and groups that begin with `word`, one level at a time."""
    above, _, _ = word.rpartition(".")
    known = _part(words, above)
    if known is None:
        return []
    found = []
    for name, below in known.items():
        dotted = f"{above}.{name}" if above else name
        if not above and name in groups():
            found.append(f"{dotted}=")
        if isinstance(below, dict):
            if name == "resume":
                found.append("resume=")
            found += [f"{dotted}."] if below else []
        else:
            found.append(f"{dotted}=")
    return _matches(word, found)


def _values(words: list[str], key: str, begun: str) -> list[str]:
    """The values of a key that begin with `begun`."""
    found = list(WORDS.get(key, ()))
    if key in groups():
        found += groups()[key]
    else:
        above, _, name = key.rpartition(".")
        known = (_part(words, above) or {}).get(name)
        found += [] if isinstance(known, dict) else _literals(known)
    found = _matches(begun, list(dict.fromkeys(found)))
    return found + (_paths(begun) if key in PATHS or key.endswith("path") else [])


def _part(words: list[str], above: str) -> Keys | None:
    """The keys below a dotted key, by the choices in the line; all keys if it is empty."""
    chosen = _choices(words)
    if not above:
        return _settings() | {group: _chosen(group, chosen, words) for group in groups()}
    first, *others = above.split(".")
    if first == "hf":
        signature = read_signature(HF_ARGUMENTS)
        found: Any = _annotations(signature.parameters) if signature else {}
    elif first in groups():
        found = _chosen(first, chosen, words)
    else:
        found = _settings().get(first)
    for name in others:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _choices(words: list[str]) -> dict[str, str]:
    """The choice of each group: the default, or the (first) one in the line."""
    chosen: dict[str, str] = {}
    for entry in _read(conf_dir() / "train.yaml").get("defaults", ()):
        if isinstance(entry, dict):
            chosen |= {str(group): str(name) for group, name in entry.items()}
    for word in words:
        group, equals, value = word.lstrip("+").partition("=")
        if equals:
            chosen[group] = value.partition(",")[0]
    return chosen


def _settings() -> Keys:
    """The top-level keys that are not groups."""
    signature = read_signature(SETTINGS)
    found: Keys = _annotations(signature.parameters) if signature else {}
    found["resume"] = {"from": str, "horizon": str, "override": list}
    found["hf"] = {"learning_rate": float}  # the others are in HF_ARGUMENTS
    found["hydra"] = {"run": {"dir": str}, "sweep": {"dir": str}}
    return found


def _chosen(group: str, choices: Mapping[str, str], words: list[str]) -> Keys:
    """The keys of the choice of a group."""
    path = groups()[group].get(choices.get(group, ""))
    if path is None:
        return {}
    if group in SWEEP_GROUPS:  # the settings of none are those of default
        return _of_sweep(group, _node(path))
    if "@package" in text_of(path):  # its keys belong to other groups
        return {}
    node = _node(path)
    for word in words:  # a class of the user's own
        key, _, value = word.lstrip("+").partition("=")
        if key == f"{group}.{TARGET}":
            node[TARGET] = value
    return _tree(node)


def _of_sweep(group: str, node: Keys) -> Keys:
    """The keys of a group of settings of a whole sweep, with what each may be."""
    defaults = _read(conf_dir() / group / "default.yaml")
    signature = read_signature(SWEEP_SETTINGS[group])
    known = _annotations(signature.parameters) if signature else {}
    return {str(key): known.get(key, type(value)) for key, value in (defaults | node).items()}


def _node(path: Path, within: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file merged with those of its group that it includes, but not with itself."""
    own = {} if path in within else _read(path)
    node: dict[str, Any] = {}
    defaults = own.pop("defaults", None)
    for entry in defaults if isinstance(defaults, list) else ():
        if isinstance(entry, str) and entry != "_self_":
            name = entry.partition("@")[0].lstrip("/")
            for folder in (path.parent, conf_dir() / path.parent.name):
                if (folder / f"{name}.yaml").is_file():
                    node |= _node(folder / f"{name}.yaml", (*within, path))
                    break
    return node | own


def _read(path: Path) -> dict[str, Any]:
    try:
        node = read_yaml(path, is_users=True)
    except Unreadable:
        return {}
    return node if isinstance(node, dict) else {}


def _tree(node: Mapping[str, Any]) -> Keys:
    """The keys of a node: those of its YAML, and the other arguments of its constructor."""
    target = node.get(TARGET)
    signature = read_signature(target) if isinstance(target, str) and "." in target else None
    parameters = signature.parameters if signature else {}
    is_ours = any(key not in (TARGET, PARTIAL, "defaults") for key in node)
    found: Keys = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            found[str(key)] = _tree(value)
        elif key in parameters:
            found[str(key)] = parameters[key].annotation
        elif key not in (TARGET, PARTIAL):
            found[str(key)] = type(value)
    if not is_ours:
        found[TARGET] = str
    for key, parameter in parameters.items():
        # what the run passes (params, module) is required, and in no file
        if key not in found and not (parameter.required and is_ours):
            found[key] = parameter.annotation
    return found


def _annotations(parameters: Mapping[str, Any]) -> Keys:
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _literals(annotation: Any) -> Iterator[str]:
    """The words that an annotation accepts."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _literals(args[0])
    elif origin in (Union, types.UnionType):
        for option in args:
            yield from _literals(option)
    elif origin is Literal:
        yield from map(str, args)
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"


def _paths(begun: str) -> list[str]:
    """Files and directories; hidden ones only if `begun` begins with a dot.

    The shell takes them as they are: a name such as `$(reboot)` would be run with the command. For
    a name with special characters the shell's own completion remains, which quotes it.
    """
    folder, name = os.path.split(begun)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda one: one.name)
    except OSError:
        return []
    return [
        os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")
        for entry in entries
        if entry.name.startswith(name)
        and (name or not entry.name.startswith("."))
        and PLAIN_NAME.fullmatch(entry.name)
    ]
