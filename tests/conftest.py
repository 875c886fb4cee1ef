"""What every test gets: no globals left behind by Hydra, and a small float64 model."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hypothesis import settings

from tests.forking import Forks
from tests.sampling import sample_marked
from tests.user_code import USER_CODE

ROOT = Path(__file__).parent.parent
#: Variables that a run reads when it needs them: a fork with others is as a new process.
OF_A_RANK = {"RANK", "WORLD_SIZE", "MASTER_PORT"}
os.environ.setdefault("MPLBACKEND", "Agg")
# a busy machine may stop any example for a while
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")
# processes of start_method="forkserver" are forks of one that has imported these
multiprocessing.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor", "lit_optim.runs.run", "pytest"]
)
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of workers beside each other wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(config, items):
    if not config.option.keyword:  # with -k, what is asked for is tried as a whole
        sample_marked(items)


@pytest.fixture(autouse=True)
def _same_chance():
    """Whatever has run before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_environment():
    """Runs in this process set variables, with which a fork would no longer be as a new process."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_hydra_left():
    yield
    GlobalHydra.instance().clear()
    Singleton._instances.pop(HydraConfig, None)


@pytest.fixture(autouse=True)
def _same_log_level():
    """Commands that run in this process set it for the whole of it."""
    logs = [logging.getLogger(), logging.getLogger("lit_optim")]
    before = [log.level for log in logs]
    yield
    for log, level in zip(logs, before, strict=True):
        log.setLevel(level)


@pytest.fixture
def kernel_cache(tmp_path, monkeypatch):
    """An empty cache of kernels; what is known about the compiler is forgotten."""
    from lit_optim.kernels import compiler, cpu

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cpu, "_kernels", {})
    monkeypatch.setattr(cpu, "_failure", None)
    known = compiler.find_compiler, compiler.describe_toolchain
    for function in known:
        function.cache_clear()
    yield compiler.cache_dir()
    for function in known:
        function.cache_clear()


@pytest.fixture(scope="session")
def forks():
    forks = Forks()
    yield forks
    forks.stop()


@pytest.fixture
def train(tmp_path, forks):
    """Run train.py as a user would, in an empty directory; returns the finished process."""

    def start(*argv: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        script, environment = str(ROOT / "train.py"), os.environ | env
        if env.keys() <= OF_A_RANK and forks.can_run(environment):
            return forks.run([script, *argv], tmp_path, environment, timeout)
        return subprocess.run(
            [sys.executable, script, *argv],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return start


@pytest.fixture
def begin(tmp_path, forks):
    """Start train.py as `train` does, in a session of its own; returns what is like a Popen."""
    started = []

    def start(*argv: str):
        command, environment = [str(ROOT / "train.py"), *argv], dict(os.environ)
        if forks.can_run(environment):
            process = forks.start(command, tmp_path, environment)
        else:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def user_code(tmp_path):
    """`user_code.py` where train.py is started, read anew: other tests ask for a missing one."""
    from lit_optim import signatures

    (tmp_path / "user_code.py").write_text(textwrap.dedent(USER_CODE))
    for remembered in (signatures.read_signature, signatures._load):
        remembered.cache_clear()


@pytest.fixture
def run_here(tmp_path, monkeypatch):
    """Run a command line in this process, in a directory of its own; returns the result."""
    from omegaconf import OmegaConf

    from lit_optim.command_line.prepare import prepare_command_line
    from lit_optim.config.composing import compose_config
    from lit_optim.runs.run import run

    monkeypatch.chdir(tmp_path)
    quiet = ("logger=none", "trainer.enable_progress_bar=false", "callbacks=default",
             "trainer.enable_model_summary=false")  # fmt: skip

    def start(*argv: str, run_dir: str = "run"):
        place = tmp_path / run_dir
        given = [*quiet, f"callbacks.checkpoint.dirpath={place}/checkpoints", *argv]
        cfg = compose_config(
            [x for x in prepare_command_line(given).argv if not x.startswith("hydra.")]
        )
        choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items() if v}
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return run(cfg, place, choices)

    return start


@pytest.fixture
def refusal(tmp_path):
    """Why nothing is built of a command line."""
    from lit_optim.command_line.prepare import prepare_command_line
    from lit_optim.config.composing import compose_config
    from lit_optim.errors import UsageError
    from lit_optim.runs.build import build_run  # which takes Lightning along

    def tell(argv):
        with pytest.raises(UsageError) as refused:
            build_run(compose_config(prepare_command_line(argv).argv), tmp_path)
        return str(refused.value)

    return tell
