"""The text of `--help`: every group with a line for each choice; or the keys of one choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_optim.config.places import PARTIAL, conf_dir, groups, headline, text_of
from lit_optim.hyperparameters import describe
from lit_optim.programs import train_command
from lit_optim.signatures import read_docstring, read_signature
from lit_optim.streams import NAME

SETTING = re.compile(r"^( *)(\w+): ?(.*?) ?# (.*)$", re.MULTILINE)
#: The choice of another group that a choice brings along, unless one is typed.
BRINGS = re.compile(r"^  - override /(\w+)@_global_\.\1: (\w+)", re.MULTILINE)

TITLE = f"{NAME}: train a model with an optimizer and a schedule chosen by name"
#: What is typed after the command, and what it is for.
EXAMPLES = {
    "optimizer=adamw scheduler=cosine_warmup": "one run",
    "optimizer=sgd optimizer.lr=0.1 trainer=gpu": "any value of any choice",
    "-m optimizer=adamw,sgd scheduler=step,linear": "every combination",
    "-m optimizer=adamw,sgd optimizer.lr=auto search.trials=12": "a search for the best lrs",
    "resume=runs/...": "resume an interrupted run",
    "train=false ckpt=runs/.../best.ckpt": "evaluate a checkpoint",
    "hf=args.yaml hf.warmup_steps=100": "the settings of a TrainingArguments",
    "optimizer=sgd --help": "the keys of a choice",
    "model=custom model._target_=yours.Net --help": "the arguments of your class",
}


def help_text(chosen: dict[str, str], targets: Mapping[str, str] | None = None) -> str:
    """The overview, or the keys of the choices that were named.

    Args:
        chosen: the choice of each group.
        targets: the classes of the user's own that were named, by keys such as `model._target_`.
    """
    files = [groups()[group][name] for group, name in chosen.items() if name in groups()[group]]
    named = [arguments(key.partition(".")[0], target) for key, target in (targets or {}).items()]
    if files or named:
        return "\n".join([*map(keys, files), *filter(None, named)])
    defaults = dict(re.findall(r"^  - (\w+): (\w+)", _train_yaml(), re.MULTILINE))
    lines = [TITLE, "", *_examples(), ""]
    for group, choices in groups().items():
        default = defaults.get(group, "null")
        lines.append(f"{group}=" + ("" if default == "null" else f"   (default: {default})"))
        wide = max(16, *map(len, choices))
        lines += [f"  {name:<{wide}} {headline(path)}" for name, path in choices.items()]
        lines.append("")
    lines.append("settings")
    lines += _settings()
    return "\n".join(lines)


def _examples() -> list[str]:
    command, wide = train_command(), max(map(len, EXAMPLES))
    return [f"  {command} {line:<{wide}}  {use}" for line, use in EXAMPLES.items()]


def _settings() -> list[str]:
    """A line for each setting; for a mapping, one for each key in it."""
    lines, parent = [], ""
    for indent, name, default, comment in SETTING.findall(_train_yaml()):
        parent = parent if indent else name
        key = f"{parent}.{name}" if indent else name
        if name == "hydra" or (indent and parent == "hydra"):
            break
        lines.append(f"  {f'{key}={default}':<22} {comment}")
    return lines


def arguments(group: str, target: str) -> str:
    """The arguments of a class, as on the command line; empty if it cannot be read."""
    signature = read_signature(target)
    if signature is None:
        return ""
    said = (read_docstring(target) or "").strip().splitlines()
    lines = [f"# {target}" + (f": {said[0]}" if said else "")]
    for name, parameter in signature.parameters.items():
        kind = "" if parameter.annotation is Any else describe(parameter.annotation)
        notes = [note for note in (kind, "must be given" * parameter.required) if note]
        lines.append(f"{group}.{name}=" + (f" # {', '.join(notes)}" if notes else ""))
    return "\n".join(lines)


def keys(path: Path) -> str:
    """The YAML file of a choice, with its keys as on the command line."""
    text = text_of(path)
    top = re.compile(r"^(\w[\w.]*): ?(.*)$")
    lines = []
    for shared in re.findall(r"^  - (.*)@_here_$", text, re.MULTILINE):
        _, _, more = text_of(path.parent / f"{shared}.yaml").partition("\n")
        text = text.replace(f"  - {shared}@_here_\n", "").rstrip("\n") + "\n" + more
    text = BRINGS.sub(r"\1=\2", text)
    text = re.sub(r"^defaults:\n(?!  - )\n?", "", text, flags=re.MULTILINE)
    text = text.replace(f"{PARTIAL}: true\n", "")
    for line in text.splitlines():
        match = top.match(line)
        if match and match[1] != "defaults" and "@package" not in text:
            line = f"{path.parent.name}.{match[1]}={match[2]}"
        lines.append(line)
    return "\n".join(lines)


def _train_yaml() -> str:
    return (conf_dir() / "train.yaml").read_text("utf-8")
