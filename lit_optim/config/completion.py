"""What can follow on a line of `lit-optim`, for the shell's tab key; only files are read."""

from __future__ import annotations

from collections.abc import Iterable

from lit_optim.config.listing import entries
from lit_optim.config.places import OPTION, groups
from lit_optim.signatures import read_signature

#: bash asks for every word; it takes what follows the last `=` for a word of its own.
BASH = """\
_lit_optim() {
    local found
    mapfile -t found < <(lit-optim complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=("${found[@]}")
    case "${COMPREPLY[*]}" in *=) compopt -o nospace ;; esac
}
complete -o default -F _lit_optim lit-optim
"""
DEFAULT = "cosine_warmup"


def candidates(line: str, listings: dict[str, str], of_runs: Iterable[str]) -> list[str]:
    """The words, or ends of words after a `=`, that the last word of a line may become.

    Args:
        line: up to the cursor.
        listings: commands that list a group.
        of_runs: commands that take overrides.
    """
    words = line.split()[1:]
    word = words.pop() if words and not line.endswith(" ") else ""
    if not words:
        return _begun(word, [*listings, *of_runs, "doctor", "completion"])
    command = words[0]
    if command in listings:
        return _begun(word, groups()[listings[command]])
    if command not in of_runs:
        return []
    key, equals, value = word.partition("=")
    if not equals:
        keys = [*(f"{group}=" for group in groups()), *_keys(words), *KEYS]
        return _begun(word, [*keys, *OPTIONS.get(command, ()), OPTION])
    before, comma, last = value.rpartition(",")
    return [f"{before}{comma}{name}" for name in _begun(last, groups().get(key, ()))]


KEYS = ("trainer.max_steps=", "optimizer.lr=")
OPTIONS: dict[str, tuple[str, ...]] = {
    "plot": ("--to", "--steps-per-epoch"),
    "explain": (),
    "lr-range": ("--steps", "--from", "--to"),
}


def _begun(word: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(word)]


def _keys(words: list[str]) -> list[str]:
    """The keys of the schedule that the line has chosen."""
    chosen = [word.partition("=")[2] for word in words if word.startswith("scheduler=")]
    name = chosen[-1].partition(",")[0] if chosen else DEFAULT
    target = next((entry.target for entry in entries("scheduler") if entry.name == name), "")
    signature = read_signature(target) if target else None
    return [f"scheduler.{key}=" for key in (signature.parameters if signature else ())]
