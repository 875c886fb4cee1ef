"""Tasks for jobs in other processes, which import little."""

from __future__ import annotations

import os
import threading

from hydra.core.hydra_config import HydraConfig


class Odd(Exception):
    """An exception that can be pickled, but not read again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def task(cfg):
    """What a test asks for by `x`."""
    if cfg.x == "error":
        raise ValueError("of the job")
    if cfg.x == "odd":
        raise Odd(1, 2)
    if cfg.x == "crash":
        os._exit(7)
    if cfg.x == "lock":
        return threading.Lock()
    hydra = HydraConfig.get()
    with open(os.path.join(hydra.runtime.output_dir, "pid"), "w") as file:
        file.write(str(os.getpid()))
    return {"job": hydra.job.num, "value": (cfg.x - 2) ** 2}
