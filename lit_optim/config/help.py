"""What `--help` prints: every group with its options, a line each; or the keys of one option."""

from __future__ import annotations

import re
from pathlib import Path

from lit_optim.config.places import conf_dir, groups, headline

USAGE = """\
lit_optim: train a model with an optimizer and a schedule chosen by name

  python train.py optimizer=adamw scheduler=cosine_warmup        one run
  python train.py optimizer=sgd optimizer.lr=0.1 trainer=gpu     any value of any choice
  python train.py -m optimizer=adamw,sgd scheduler=step,linear   every combination
  python train.py train=false ckpt=runs/.../best.ckpt            evaluate a checkpoint
  python train.py hf=args.yaml hf.warmup_steps=100               what transformers' Trainer does
  python train.py optimizer=sgd --help                           the keys of a choice
"""


def help_text(chosen: dict[str, str]) -> str:
    """The overview, or the files of the choices that were named."""
    files = [groups()[group][name] for group, name in chosen.items() if name in groups()[group]]
    if files:
        return "\n".join(map(keys, files))
    defaults = dict(re.findall(r"^  - (\w+): (\w+)", _train_yaml(), re.MULTILINE))
    lines = [USAGE]
    for group, choices in groups().items():
        default = defaults.get(group, "null")
        lines.append(f"{group}=" + ("" if default == "null" else f"   (default: {default})"))
        wide = max(16, *map(len, choices))
        lines += [f"  {name:<{wide}} {headline(path)}" for name, path in choices.items()]
        lines.append("")
    lines.append("settings")
    for name, default, comment in re.findall(r"^(\w+): (.*?) # (.*)$", _train_yaml(), re.MULTILINE):
        lines.append(f"  {name + '=' + default:<16} {comment}")
    return "\n".join(lines)


def keys(path: Path) -> str:
    """The YAML file of a choice with its keys written as on the command line."""
    text = path.read_text("utf-8")
    top = re.compile(r"^(\w[\w.]*): ?(.*)$")
    lines = []
    for shared in re.findall(r"^  - (.*)@_here_$", text, re.MULTILINE):
        _, _, more = (path.parent / f"{shared}.yaml").read_text("utf-8").partition("\n")
        text = text.replace(f"  - {shared}@_here_\n", "").rstrip("\n") + "\n" + more
    text = text.replace("defaults:\n\n", "")
    for line in text.splitlines():
        match = top.match(line)
        if match and match[1] != "defaults" and "@package" not in text:
            line = f"{path.parent.name}.{match[1]}={match[2]}"
        lines.append(line)
    return "\n".join(lines)


def _train_yaml() -> str:
    return (conf_dir() / "train.yaml").read_text("utf-8")
