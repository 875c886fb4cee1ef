"""What has changed in a search since it was begun."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lit_optim.errors import printable, show
from lit_optim.search.data import Study

#: What is compared of a study where its runs' fingerprint is not known.
LINE = "overrides"
#: For a value in a message.
MOST_CHARACTERS = 100


def describe_change(
    study: Study, before: object, now: Mapping[str, Any], skipped: Collection[str]
) -> str:
    """Which setting of a study is another one than before, as it was typed; empty if none is."""
    named = f"study {printable(study.name)!r}" if study.name else "the study"
    old = before if isinstance(before, Mapping) else {}
    typed, had = _values_by_key(study.fixed), _values_by_key(old.get(LINE))
    others = {key for key in typed if key in had and typed[key] != had[key]}
    for key in sorted({**now, **old}, key=lambda key: key.partition(".")[0] not in others):
        was, is_now = old.get(key), now.get(key)  # of another version of ours a key may be missing
        if was == is_now or key in skipped:
            continue
        group = key.partition(".")[0]  # a choice such as data=digits decides many settings
        if group in others:
            key, was, is_now = group, had[group], typed[group]
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            key = next(one for one in {**is_now, **was} if was.get(one) != is_now.get(one))
            was, is_now = was.get(key), is_now.get(key)
        return (
            f"{named} was begun with {printable(key)}={_show(was)}, and this line has "
            f"{_show(is_now)}; a search goes on with what it was begun with"
        )
    return ""


def _values_by_key(line: object) -> dict[str, str]:
    """The values of overrides, which another program may have stored."""
    parts = [one.lstrip("+").partition("=") for one in line if isinstance(one, str)] \
        if isinstance(line, Sequence) else []  # fmt: skip
    return {key: value for key, _, value in parts}


def _show(value: object) -> str:
    return printable(value, MOST_CHARACTERS) if isinstance(value, str) else show(value)
