"""Steps that need something from other processes, run together so that little is sent."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
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


#: A part of a step: it yields requests, is sent the answer to each, and ends when it is done.
Steps: TypeAlias = Generator[Request, Any, None]


def run_together(parts: Iterable[Steps]) -> None:
    """Run the parts of a step: each until its first request, then on with the answers, and so on.

    What is requested at the same time is answered together.
    """
    waiting: list[tuple[Steps, Request]] = []
    for part in parts:
        _advance(part, None, waiting)
    while waiting:
        parts_waiting, answers = waiting, _answer([request for _, request in waiting])
        waiting = []
        for (part, _), answer in zip(parts_waiting, answers, strict=True):
            _advance(part, answer, waiting)


def _advance(part: Steps, answer: Any, waiting: list[tuple[Steps, Request]]) -> None:
    try:
        request = next(part) if answer is None else part.send(answer)
    except StopIteration:
        return
    waiting.append((part, request))


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
