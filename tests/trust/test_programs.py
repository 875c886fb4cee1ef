"""Programs that are started beside a directory of someone else run nothing that is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from lit_optim.command_line.completion import candidates
from lit_optim.commands import load_commands
from lit_optim.reports.board import TENSORBOARD
from lit_optim.runs.record import git_state

AUTHOR = ("-c", "user.name=n", "-c", "user.email=e")


def git(where, *argv):
    done = subprocess.run(
        ["git", *AUTHOR, *argv], cwd=where, check=True, capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip()


def create_repository(where):
    """A repository with one file, committed."""
    where.mkdir()
    git(where, "init", "-q")
    (where / "a").write_text("1")
    git(where, "add", "a")
    git(where, "commit", "-qm", "one")


@pytest.fixture
def repository(tmp_path):
    """A repository with a changed file, and the command that leaves a mark."""
    where = tmp_path / "repository"
    create_repository(where)
    (where / "a").write_text("2")  # of the same size: git has to look into it
    return where, f"touch {tmp_path / 'mark'}; exit 1"


def attributes(where, command, key):
    (where / ".git" / "info").mkdir(exist_ok=True)
    (where / ".git" / "info" / "attributes").write_text("* filter=x\n")
    git(where, "config", key, command)
    (where / "a").write_text("3")


def included(where, command):
    (where / "more").write_text(f'[filter "x"]\n\tclean = "{command}"\n')
    attributes(where, "../more", "include.path")


def of_worktree(where, command):
    git(where, "config", "extensions.worktreeConfig", "true")
    (where / ".git" / "config.worktree").write_text(f'[filter "x"]\n\tclean = "{command}"\n')
    attributes(where, "1", "x.y")


def monitor(where, command):
    git(where, "config", "core.fsmonitor", command)


def hook(where, command):
    path = where / ".git" / "hooks" / "post-index-change"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    os.utime(where / "a", (1, 1))


def missing_objects(where, command):
    """What is missing would be fetched by a command."""
    git(where, "config", "remote.origin.url", f"ext::sh -c {command.replace(' ', '% ')}")
    git(where, "config", "remote.origin.promisor", "true")
    git(where, "config", "protocol.ext.allow", "always")
    git(where, "config", "extensions.partialClone", "origin")
    git(where, "config", "core.repositoryFormatVersion", "1")
    tree = git(where, "rev-parse", "HEAD^{tree}")
    (where / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


def submodule(where, command):
    inner = where / "inner"
    create_repository(inner)
    git(where, "add", "inner")
    attributes(inner, command, "filter.x.clean")


ATTACKS = {
    "clean": lambda *args: attributes(*args, "filter.x.clean"),
    "process": lambda *args: attributes(*args, "filter.x.process"),
    **{f.__name__: f for f in (included, of_worktree, monitor, hook, missing_objects, submodule)},
}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("kind", ATTACKS)
def test_the_commit_is_read_without_a_program_of_the_repository(kind, repository, tmp_path):
    where, command = repository
    ATTACKS[kind](where, command)
    found = git_state(where)
    assert found is not None
    assert not (tmp_path / "mark").exists()
    # what the attack is about: git alone would run it
    subprocess.run(
        ["git", "status", "--porcelain"], cwd=where, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=20,
    )  # fmt: skip
    assert (tmp_path / "mark").exists()


def test_tensorboard_is_not_taken_from_the_directory_that_is_looked_at(tmp_path):
    for name in ("tensorboard", "numpy", "absl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("open('mark', 'w').close()\n")
    (tmp_path / "tensorboard" / "main.py").write_text("open('mark', 'w').close()\n")
    code = TENSORBOARD.replace("run_main()", "print(run_main.__module__)")
    assert code != TENSORBOARD
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "tensorboard.main\n"
    assert not (tmp_path / "mark").exists()


NAMES = ["$(touch mark)", "`touch mark`", "a;touch mark", "a&b", "a|b", "a>b", "a b", "a\nb", "a'b",
         "\x1b[31m", 'a"b', "!x", "a\\b", "~", "*", "?"]  # fmt: skip


@pytest.mark.parametrize("line", ["lit-optim report {}/", "python train.py resume={}/"])
def test_the_tab_key_offers_no_name_that_a_shell_would_run(line, tmp_path):
    good = ["2026-11-28", "optimizer=adamw,betas=[0.9,0.95]", "größe"]
    for name in [*NAMES, *good]:
        (tmp_path / name).mkdir()
    offered = candidates(line.format(tmp_path), load_commands())
    assert sorted(one.rstrip("/").rpartition("/")[2] for one in offered) == sorted(good)
