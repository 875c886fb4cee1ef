"""TensorBoard's own page and answers on a sweep: columns, means over seeds, cards, and names."""

from __future__ import annotations

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

from tests.browser import open_browser
from tests.conftest import ROOT

if os.name != "posix":
    pytest.skip("signals of POSIX", allow_module_level=True)

LINE = [
    *("data=digits", "model=mlp", "trainer.max_steps=3", "trainer.enable_progress_bar=false"),
    *("optimizer=adamw,sgd", "optimizer.lr=0.01,1e30", "seed=0,1"),  # half of them diverge
]
RUNNING, SUCCESS, FAILURE = "STATUS_RUNNING", "STATUS_SUCCESS", "STATUS_FAILURE"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, forks):
    """The directory of a sweep by Hydra's own launcher, which knows nothing of ours."""
    place = tmp_path_factory.mktemp("runs")
    argv = [str(ROOT / "train.py"), "-m", "hydra/launcher=basic", *LINE, "hydra.sweep.dir=sweep"]
    done = forks.run(argv, place, dict(os.environ), 300)
    assert done.returncode == 0, done.stderr
    return place / "sweep"


@pytest.fixture(scope="module")
def page(sweep):
    """The address that `lit-optim board` prints, in a process that ends without a trace."""
    command = [sys.executable, "-c", "from lit_optim.cli import main; main()", "board"]
    with subprocess.Popen(
        [*command, str(sweep)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        told = [process.stdout.readline() for _ in range(3)]
        assert told[0].endswith("sweep: 8 runs\n"), process.stderr.read()
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
        if sum(len(group["sessions"]) for group in groups) == 8 or time.monotonic() > until:
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
    groups = {(g["hparams"]["optimizer"], g["hparams"]["optimizer.lr"]): g
              for g in session_groups(page)}  # fmt: skip
    assert sorted(groups) == [("adamw", 0.01), ("adamw", 1e30), ("sgd", 0.01), ("sgd", 1e30)]
    for (optimizer, lr), group in groups.items():
        assert re.fullmatch(rf"{optimizer} (0.01|1e\+30) [0-9a-f]{{6}}", group["name"])
        assert group["hparams"]["seed"] == "0,1"
        assert len(group["sessions"]) == 2
        status = SUCCESS if lr == 0.01 else FAILURE
        assert {session["status"] for session in group["sessions"]} == {status}
        if status == FAILURE:
            continue
        shown = {one["name"]["tag"]: one["value"] for one in group["metricValues"]}
        runs = sweep.glob(f"optimizer={optimizer},optimizer.lr=0.01,*/result.json")
        results = [json.loads(path.read_text()) for path in runs]
        assert len(results) == 2
        for stage in ("final", "test"):
            assert results[0][stage]
            for name in results[0][stage]:
                tag = f"~{name}" if stage == "test" else name
                mean = statistics.fmean(result[stage][name] for result in results)
                assert shown[tag] == pytest.approx(mean, rel=1e-6)


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
            f"{optimizer} {lr} s{seed}"
            for optimizer in ("adamw", "sgd") for lr in ("0.01", "1e+30") for seed in (0, 1)
        ]  # fmt: skip
        tab.get_by_text("HPARAMS").click()
        tab.wait_for_selector("text=Trial ID")
        for text in ("optimizer.lr", "val/acc", "test/loss", "0,1"):
            tab.get_by_text(text, exact=True).locator("visible=true").first.wait_for()
        assert errors == []
