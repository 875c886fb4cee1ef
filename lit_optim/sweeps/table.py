"""What configurations of earlier versions name; a sweep now shows its table however it is run."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback


class SweepTable(Callback):
    """Does nothing."""

    def __init__(self, **_: Any) -> None:
        pass
