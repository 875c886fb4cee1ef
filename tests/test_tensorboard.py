"""TensorBoard's own page and answers on a sweep: columns, means over seeds, cards, and names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from lit_optim.errors import TrainingFailed
from lit_optim.sweeps.records import record_sweep
from tests.browser import open_browser
from tests.lightning.test_hparams import start

if os.name != "posix":
    pytest.skip("signals of POSIX", allow_module_level=True)

#: Of a sweep; the last one diverges.
JOBS = [
    [f"optimizer={optimizer}", "optimizer.lr=0.01", f"seed={seed}"]
    for optimizer in ("adamw", "sgd")
    for seed in (0, 1)
]
DIVERGES = ["optimizer=sgd", "optimizer.lr=1e30", "seed=0"]
RUNNING, SUCCESS, FAILURE = "STATUS_RUNNING", "STATUS_SUCCESS", "STATUS_FAILURE"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Its directory, with what each run returned."""
    directory = tmp_path_factory.mktemp("runs") / "sweep"
    jobs = [*JOBS, DIVERGES]
    names = {tuple(job): ",".join(job) for job in jobs}
    line = ["optimizer=adamw,sgd", "optimizer.lr=0.01,1e30", "seed=0,1"]
    record_sweep(directory, line, names)
    results = [start(directory, *job, name=",".join(job)) for job in JOBS]
    with contextlib.suppress(TrainingFailed):
        start(directory, *DIVERGES, name=",".join(DIVERGES))
    return directory, results


@pytest.fixture(scope="module")
def page(sweep):
    """The address that `lit-optim board` prints, in a process that ends without a trace."""
    command = [sys.executable, "-c", "from lit_optim.cli import main; main()", "board"]
    with subprocess.Popen(
        [*command, str(sweep[0])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        told = [process.stdout.readline() for _ in range(3)]
        assert told[0].endswith("sweep: 5 runs\n"), process.stderr.read()
        url = told[1].strip()
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""
    with pytest.raises(ConnectionRefusedError):  # nobody is left behind
        socket.create_connection(("localhost", urllib.parse.urlsplit(url).port))


def ask(page, what, **request):
    """What TensorBoard answers about its HPARAMS."""
    path = what if not request else f"{what}?request={urllib.parse.quote(json.dumps(request))}"
    place = f"http://{urllib.parse.urlsplit(page).netloc}/data/{path}"
    with urllib.request.urlopen(place) as answer:
        return json.load(answer)


def session_groups(page):
    """The rows of the table, once all runs have been read."""
    request = {
        "allowedStatuses": ["STATUS_UNKNOWN", RUNNING, SUCCESS, FAILURE],
        "startIndex": 0,
        "sliceSize": 100,
    }
    until = time.monotonic() + 60
    while True:
        groups = ask(page, "plugin/hparams/session_groups", **request)["sessionGroups"]
        if sum(len(group["sessions"]) for group in groups) == 5 or time.monotonic() > until:
            return groups
        time.sleep(0.2)


def test_what_a_sweep_varies_are_the_columns_and_then_metrics(page):
    session_groups(page)
    experiment = ask(page, "plugin/hparams/experiment", experimentName="")
    infos = experiment["hparamInfos"]
    assert [info["name"] for info in infos] == ["optimizer", "optimizer.lr", "seed"]
    assert all(info["differs"] for info in infos)
    assert infos[0]["domainDiscrete"] == ["adamw", "sgd"]
    metrics = [info.get("displayName") for info in experiment["metricInfos"]]
    assert metrics == ["val/acc", "val/loss", "test/acc", "test/loss"]  # the monitor first


def test_seeds_are_a_row_with_their_means_and_runs_that_diverge_are_there(page, sweep):
    groups = session_groups(page)
    assert [len(group["sessions"]) for group in groups] == [2, 2, 1]
    names = [group["name"] for group in groups]
    assert all(re.fullmatch(r"\w+ (0.01|1e30) [0-9a-f]{6}", name) for name in names)
    assert [name.split()[0] for name in names] == ["adamw", "sgd", "sgd"]
    for place, group in enumerate(groups[:2]):
        shown = {one["name"]["tag"]: one["value"] for one in group["metricValues"]}
        results = sweep[1][2 * place : 2 * place + 2]
        for stage in ("final", "test"):
            assert getattr(results[0], stage)
            for name in getattr(results[0], stage):
                tag = f"~{name}" if stage == "test" else name
                mean = statistics.fmean(getattr(result, stage)[name] for result in results)
                assert shown[tag] == pytest.approx(mean, rel=1e-6)
        assert group["hparams"]["seed"] == "0,1"
        assert {session["status"] for session in group["sessions"]} == {SUCCESS}
    assert groups[2]["sessions"][0]["status"] == FAILURE
    assert groups[2]["hparams"]["optimizer.lr"] == 1e30


def test_the_page_begins_with_losses_and_lr_and_has_short_names(page):
    session_groups(page)
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1500, "height": 1000})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page)
        tab.wait_for_selector("metrics-pinned-view scalar-card")

        def shown(selector):
            texts = tab.locator(selector).all_inner_texts()
            return [re.sub(r"\s", "", text) for text in texts]

        assert shown("metrics-pinned-view .tag") == [
            *("val/loss", "train/loss", "lr/decay", "val/acc")
        ]
        groups = shown("metrics-card-groups .group-title")
        assert groups == ["lr", "plan", "train", "val", "~test"]  # no epoch, best or final
        names = tab.locator("runs-data-table").inner_text()
        assert re.findall(r"\w+ \S+ s\d", names) == [
            *("adamw 0.01 s0", "adamw 0.01 s1", "sgd 0.01 s0", "sgd 0.01 s1", "sgd 1e30 s0")
        ]
        tab.get_by_text("HPARAMS").click()
        tab.wait_for_selector("text=Trial ID")
        for text in ("optimizer.lr", "val/acc", "test/loss", "0,1"):
            tab.get_by_text(text, exact=True).locator("visible=true").first.wait_for()
        assert errors == []
