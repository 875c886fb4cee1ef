"""`lit-optim board`: TensorBoard with names, colors and cards that help."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from lit_optim.cli import main
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.programs import open_command
from lit_optim.reports.board import Links, address, cards, find_runs, has_desktop, read_tags
from lit_optim.reports.run_names import name_runs

DAY = "2026-11-28"


def write(path, *tags):
    with SummaryWriter(str(path)) as writer:
        for tag in tags or ("train/loss",):
            writer.add_scalar(tag, 1.0, 1)
    return path


def names(directory, *paths):
    runs = []
    for path in paths:
        (directory / path).mkdir(parents=True, exist_ok=True)
        runs.append(directory / path)
    return list(name_runs(directory, runs).values())


def test_a_single_run_has_a_name(tmp_path):
    run = tmp_path / DAY / "18-42-43-828972_muon_cosine_warmup"
    assert names(run, ".") == ["muon cosine_warmup"]


@pytest.mark.parametrize("optimizer", groups()["optimizer"])
def test_names_over_all_runs_have_optimizer_and_scheduler(tmp_path, optimizer):
    schedulers = list(groups()["scheduler"])
    paths = [f"{DAY}/18-42-43-{k:06}_{optimizer}_{name}" for k, name in enumerate(schedulers)]
    assert names(tmp_path, *paths) == [f"{optimizer} {name}" for name in schedulers]


def test_runs_of_the_same_choices_are_told_apart_by_time_and_date(tmp_path):
    paths = [
        f"{DAY}/18-42-43-000001_adamw_wsd",
        f"{DAY}/18-42-44-000001_adamw_wsd",
        "2026-11-29/18-42-43-000001_adamw_wsd",
        f"{DAY}/18-42-43-000002_adamw_wsd",
        f"{DAY}/18-42-43-000002_sgd_wsd",
    ]
    found = names(tmp_path, *paths)
    assert found[0] == "adamw wsd 18-42-43"
    assert found[1] == "adamw wsd 18-42-44"
    assert found[2] == "adamw wsd 2026-11-29 18-42-43"
    assert found[4] == "sgd wsd"
    assert len(set(found)) == len(found)


def test_jobs_of_a_sweep_are_named_by_their_values(tmp_path):
    jobs = [
        "optimizer=adamw,scheduler=cosine_warmup,seed=0",
        "optimizer=adamw,scheduler=cosine_warmup,seed=1",
        "optimizer=muon,optimizer.lr=0.1,optimizer.betas=[0.9,0.95]",
        "seed=3",
        "job",
    ]
    assert names(tmp_path, *jobs) == [
        "adamw cosine_warmup seed=0",
        "adamw cosine_warmup seed=1",
        "muon optimizer.lr=0.1 optimizer.betas=[0.9,0.95]",
        "seed=3",
        "job",
    ]


@pytest.mark.parametrize(
    "paths",
    [
        ["a/job", "b/job", "job"],
        [f"{DAY}/18-42-43-000001_sweep/seed=0", f"{DAY}/18-50-00-000001_sweep/seed=0"],
        ["x/" + "long" * 60, "y/" + "long" * 60],
        ["a\nb/c", "a b/c"],
        ["A/job", "a/job"],
    ],
)
def test_names_are_distinct_and_can_be_files(tmp_path, paths):
    found = names(tmp_path, *paths)
    assert len({name.casefold() for name in found}) == len(paths)
    assert all("/" not in name and name.isprintable() and len(name) < 200 for name in found)


def test_the_first_word_of_a_name_gives_the_color(tmp_path):
    """TensorBoard's regular expression, with the optimizer in its group."""
    url = urllib.parse.urlsplit(address(1, []))
    [group] = urllib.parse.parse_qs(url.query)["runColorGroup"]
    kind, _, pattern = group.partition(":")
    found = names(tmp_path, "optimizer=adamw,seed=0", "optimizer=adamw,seed=1", "optimizer=sgd")
    assert kind == "regex"
    assert [re.match(pattern, name)[1] for name in found] == ["adamw", "adamw", "sgd"]


def test_new_runs_get_names_of_their_own_and_old_ones_keep_theirs(tmp_path):
    runs, folder = tmp_path / "runs", tmp_path / "links"
    folder.mkdir()
    links = Links(runs, folder)
    first = write(runs / DAY / "18-42-43-000001_adamw_wsd")
    links.add(find_runs(runs))
    assert [link.name for link in folder.iterdir()] == ["adamw wsd"]
    write(runs / DAY / "18-43-00-000001_adamw_wsd")
    links.add(find_runs(runs))
    assert {link.name: link.resolve() for link in folder.iterdir()}["adamw wsd"] == first
    assert len(list(folder.iterdir())) == 2


def test_where_links_are_not_allowed_paths_are_the_names(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    links = Links(write(tmp_path / "run"), tmp_path)
    links.add([tmp_path / "run"])
    assert links.logdir == tmp_path / "run"


def test_runs_are_found_but_not_what_is_hidden(tmp_path):
    for path in ("b", "a/c", ".before/a"):
        write(tmp_path / path)
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "a" / "c", tmp_path / "b"]


LOGGED = ["best/val_loss", "final/val_loss", "epoch", "plan/decay", "lr/decay", "lr/no_decay",
          "train/loss", "val/acc", "val/loss", "hp_metric", "grad_norm/decay",
          "~test/loss"]  # fmt: skip


def test_losses_rates_and_metrics_come_first(tmp_path):
    tags = read_tags([write(tmp_path, *LOGGED)])
    assert set(tags) == set(LOGGED)
    assert cards(tags) == ["val/loss", "train/loss", "lr/decay", "val/acc"]
    assert cards(["train_loss_step", "val_loss", "val_acc", "lr-AdamW"]) == [
        *("val_loss", "train_loss_step", "lr-AdamW", "val_acc")
    ]
    assert "val/loss" in cards([])  # a run that has just begun


def test_what_most_runs_log_comes_first(tmp_path):
    runs = [write(tmp_path / "0", "lr/a"), *(write(tmp_path / str(k), "lr/z") for k in (1, 2))]
    assert read_tags(runs) == ["lr/z", "lr/a"]


def test_a_broken_event_file_is_passed_over(tmp_path):
    write(tmp_path, "train/loss")
    (tmp_path / "events.out.tfevents.0.broken").write_bytes(b"\xff" * 100)
    assert read_tags([tmp_path]) in (["train/loss"], [])


def test_the_address_says_what_is_shown():
    url = urllib.parse.urlsplit(address(6006, LOGGED))
    query = urllib.parse.parse_qs(url.query)
    assert url.fragment == "timeseries"
    assert url.netloc == "localhost:6006"
    assert query["smoothing"] == ["0"]
    pinned = json.loads(query["pinnedCards"][0])
    assert [card["tag"] for card in pinned] == cards(LOGGED)
    assert {card["plugin"] for card in pinned} == {"scalars"}
    assert "+" not in url.query  # which not everybody takes for a space


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "no such directory: nowhere"),
        (["."], "no run in it has TensorBoard logs"),
        ([".", "--port", "0"], "must be in [1, 65535], got 0"),
        ([".", "--port", "x"], "must be in [1, 65535], got x"),
        ([".", "--port", "9" * 5000], "must be in [1, 65535], got 9"),
    ],
)
def test_a_mistake_is_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["board", *argv])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_where_it_was_asked_for(tmp_path, capsys):
    write(tmp_path)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["board", str(tmp_path), "--port", str(port)])
    assert f"--port={port} is in use" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["runs/a", "runs/with space", "it's"])
def test_the_line_of_a_run_can_be_pasted(path, tmp_path, monkeypatch):
    import shlex

    monkeypatch.chdir(tmp_path)
    program, command, place = shlex.split(open_command(tmp_path / path))
    assert os.path.basename(program) == "lit-optim"
    assert (command, place) == ("board", path)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "1"}, False),
        ("darwin", {}, True),
        ("darwin", {"SSH_TTY": "/dev/pts/1"}, False),
    ],
)
def test_a_browser_opens_only_where_it_would_be_seen(platform, variables, expected, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert has_desktop() == expected


@pytest.mark.parametrize("name", ["events.out.tfevents.1", "x.tfevents"])
@pytest.mark.parametrize("folder", [".", "a", ".hidden", "a/.b"])
@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device"])
def test_what_would_be_waited_for_is_refused(tmp_path, name, folder, kind):
    write(tmp_path / "a", "train/loss")
    path = tmp_path / folder / name
    path.parent.mkdir(exist_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        fifo = path if kind == "fifo" else tmp_path / "fifo"
        os.mkfifo(fifo)
        if fifo != path:
            path.symlink_to(fifo)
    with pytest.raises(UsageError, match="is not a regular file"):
        find_runs(tmp_path)
    read_tags([path.parent])  # does not wait


def test_directories_and_links_to_nothing_are_no_event_files(tmp_path):
    write(tmp_path / "a", "train/loss")
    (tmp_path / "b" / "events.out.tfevents.1").mkdir(parents=True)
    (tmp_path / "b" / "events.out.tfevents.2").symlink_to("missing")
    assert find_runs(tmp_path) == [tmp_path / "a"]
