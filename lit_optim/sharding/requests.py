"""Steps that need something from other processes, run together so that little is sent."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, TypeAlias

from typing_extensions import Self


class Request(Protocol):
    """Something that a step needs from other processes."""

    @classmethod
    def answer(cls, requests: Sequence[Self]) -> list[Any]:
        """Answer requests of this class, by as few messages as possible.

        Every process makes the same requests in the same order, also where its shards are empty.
        """
        ...


#: A part of a step: it yields a request, or a list of requests at the same time, is sent the answer
#: or the list of answers, and ends when it is done.
Steps: TypeAlias = Generator[Request | list[Any], Any, None]


def run_together(parts: Iterable[Steps]) -> None:
    """Run the parts of a step: each until its first request, then on with the answers, and so on.

    What is requested at the same time is answered together.
    """
    waiting: list[tuple[Steps, Request | list[Any]]] = []
    for part in parts:
        _advance(part, None, waiting)
    while waiting:
        lists = [asked if isinstance(asked, list) else [asked] for _, asked in waiting]
        answers = iter(_answer([request for requests in lists for request in requests]))
        parts_waiting, waiting = waiting, []
        for (part, asked), requests in zip(parts_waiting, lists, strict=True):
            own = list(islice(answers, len(requests)))
            _advance(part, own if isinstance(asked, list) else own[0], waiting)


def _advance(part: Steps, answer: Any, waiting: list[tuple[Steps, Request | list[Any]]]) -> None:
    try:
        asked = next(part) if answer is None else part.send(answer)
    except StopIteration:
        return
    waiting.append((part, asked))


def _answer(requests: list[Request]) -> list[Any]:
    answers: list[Any] = [None] * len(requests)
    kinds: dict[type[Request], list[int]] = {}
    for i, request in enumerate(requests):
        kinds.setdefault(type(request), []).append(i)
    for kind, places in kinds.items():
        found = kind.answer([requests[i] for i in places])
        for i, answer in zip(places, found, strict=True):
            answers[i] = answer
    return answers
