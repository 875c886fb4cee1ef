"""The table of faults, each row as a user would bring it about.

Rows of the command line are run here; those of a run, which need more around them, say which test
shows them. A number is a row of the table.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: Seconds of processor time that an answer may take; reading the configuration takes about one.
LONGEST = 6.0
SGD = "optimizer=sgd"

#: Row, arguments, and what the one line says.
FAULTS = [
    (1, ["optimizer=adamv"], "unknown optimizer 'adamv'; did you mean adam or adamw"),
    (2, ["optmizer=adamw"], "unknown key optmizer; did you mean optimizer?"),
    (3, ["+optmizer=adamw"], "unknown key optmizer; did you mean optimizer?"),
    (4, ["scheduler=cosine_warmpu"], "'cosine_warmpu'; did you mean cosine_warmup?"),
    (5, ["optimizer.lrr=1"], "unknown key optimizer.lrr; did you mean optimizer.lr?"),
    (5, ["+optimizer.lrr=1"], "unknown key optimizer.lrr; did you mean optimizer.lr?"),
    (6, ["optimizer=[adamw,sgd]"], "optimizer must be one choice per run; to run several, use -m"),
    (7, ["optimizer=adamw,sgd"], "=adamw,sgd: several values; to run each of them, add -m"),
    (8, ["optimizer="], "optimizer is required; one of ada"),
    (8, ["optimizer=null"], "optimizer is required; one of ada"),
    (9, ["optimizer.lr=-1"], "optimizer.lr must be a number > 0, got -1"),
    (10, ["optimizer.lr=0"], "optimizer.lr must be a number > 0, got 0"),
    (11, ["optimizer.lr=nan"], "optimizer.lr must be a number > 0, got nan"),
    (11, ["optimizer.lr=inf"], "optimizer.lr must be a number > 0, got inf"),
    (12, ["optimizer.lr=abc"], "optimizer.lr must be a number > 0, got 'abc'"),
    (13, ["optimizer.lr='1e-3'"], "optimizer.lr must be a number > 0, got '1e-3'"),
    (15, ["lr=1e-3"], "unknown key lr; did you mean optimizer.lr?"),
    (16, ["optimizer.betas=[0.9]"], "optimizer.betas must be 2 numbers in [0, 1), got [0.9]"),
    (16, ["optimizer.betas=[0.9,1.0]"], "betas must be 2 numbers in [0, 1), got [0.9, 1.0]"),
    (16, ["optimizer.betas=[-.1,.9]"], "betas must be 2 numbers in [0, 1), got [-0.1, 0.9]"),
    (16, ["optimizer.betas=null"], "optimizer.betas must be 2 numbers in [0, 1), got None"),
    (16, ["optimizer.betas=[.1,.2,.3]"], "betas must be 2 numbers in [0, 1), got [0.1, 0.2, 0.3]"),
    (17, ["optimizer.eps=0"], "optimizer.eps must be a number > 0, got 0"),
    (17, ["optimizer.eps=-1"], "optimizer.eps must be a number > 0, got -1"),
    (18, ["optimizer.weight_decay=-.1"], "optimizer.weight_decay must be a number >= 0, got -0.1"),
    (18, ["optimizer.weight_decay=nan"], "must be a number >= 0, got nan"),
    (19, [SGD, "optimizer.momentum=1.5"], "must be a number in [0, 1), got 1.5"),
    (20, ["optimizer.fused=true"], "unknown key optimizer.fused"),  # ours has `executor`
    (20, ["optimizer.executor=fused"], "must be one of auto, native, torch, got 'fused'"),
    (22, ["scheduler.warmup=500", "trainer.max_steps=100"], "500 steps, but the run has 100"),
    (24, ["scheduler.warmup=-1"], "scheduler.warmup must be a whole number or text such as 500"),
    (24, ["scheduler.warmup=1.5"], "scheduler.warmup must be a whole number or text such as 500"),
    (25, ["scheduler.total=0"], "scheduler.total must be steps, epochs or samples > 0, got 0"),
    (25, ["scheduler.total=-5"], "scheduler.total must be a whole number or text such as 500 (st"),
    (25, ["scheduler.total=inf"], "scheduler.total must be a whole number or text such as 500 (st"),
    (26, ["scheduler=cosine_min_lr", "scheduler.min_lr=1"], "min_lr=1"),
    (27, ["trainer.max_epochs=-1"], "the run has no end: set trainer.max_steps"),
    (29, ["trainer.max_epochs=0"], "nothing to train: trainer.max_steps or trainer.max_epochs is"),
    (29, ["trainer.max_steps=0"], "nothing to train: trainer.max_steps or trainer.max_epochs is 0"),
    (42, ["optimizer.lr=${nowhere}"], "optimizer.lr: Interpolation key 'nowhere' not found"),
    (42, ["optimizer.lr=???"], "optimizer.lr: must be given"),
    (42, ["optimizer.lr=${optimizer.lr}"], "optimizer.lr: Recursive interpolation detected"),
    (43, ["optimizer._target_=os.system"], "optimizer._target_=os.system is not allowed"),
    (43, ["optimizer._target_=torch.load"], "optimizer._target_=torch.load is not allowed"),
    (43, ["optimizer._target_=subprocess.Popen"], "_target_=subprocess.Popen is not allowed"),
    (46, ["trainer.precision=fp17"], "trainer.precision must be one of 64, 32, 16"),
    (47, ["seed="], "seed must be a whole number in [0, 4294967295], got ''"),
    (47, ["seed=-1"], "seed must be a whole number in [0, 4294967295], got -1"),
    (47, ["seed=abc"], "seed must be a whole number in [0, 4294967295], got 'abc'"),
    (48, ["--config-dir=nowhere"], "--config-dir: no such directory: nowhere"),
    (51, ["-m", "optimizer=adamw,sgdd"], "unknown optimizer 'sgdd'; did you mean sgd?"),
    (52, ["-m", "seed=range(0,1000000)"], "more than 10,000 values; sweep over fewer"),
    (
        65,
        ["hydra.run.dir=/proc/runs"],
        "cannot write into /proc: ",
    ),
    (65, ["hydra.run.dir=/dev/null/x"], "cannot write into /dev/null: Not a directory"),
    (73, ["resume=runs/nowhere"], "resume=runs/nowhere is not the directory of a run"),
]
#: What needs torch to be loaded, or more: a device that is not there, data, a model.
LATER = [
    (37, ["optimizer=muon", "model=linear", "data=digits"], "use AdamW (optimizer=adamw)"),
    (
        38,
        ["wrapper=sam", "trainer.accumulate_grad_batches=2", "trainer.max_steps=2"],
        "Sam eval",
    ),
    (
        38,
        ["optimizer=lbfgs", "trainer.accumulate_grad_batches=2", "trainer.max_steps=2"],
        "LBFGS eval",
    ),
    (
        44,
        ["allow=[user_code]", SGD, "optimizer._target_=user_code.Opt"],
        "there is no module user_code",
    ),
    (46, ["trainer.devices=999"], "trainer.devices=999, but this machine has "),
    (46, ["trainer.accelerator=gpuu"], "invalid accelerator name: `accelerator='gpuu'`"),
]
#: Row, and the test that shows it.
SHOWN = {
    14: "config/test_command_line.py::test_an_lr_that_nobody_uses_is_told",
    21: "training/test_requirements.py::test_torchs_fused_steps_let_gradients_be_clipped",
    23: "schedules/test_schedules.py::test_properties",
    28: "lightning/test_configure.py::test_a_run_of_unknown_length_is_refused",
    30: "callbacks/test_observer.py::test_the_model_says_what_is_followed",
    31: "callbacks/test_observer.py::test_a_missing_metric_is_named_before_the_first_update",
    32: "test_user_code.py::test_a_metric_that_nobody_logs",
    33: "callbacks/test_observer.py::test_within_an_epoch_and_with_accumulation",
    34: "training/test_requirements.py::test_a_schedule_that_falls_is_warned_of_once",
    35: "callbacks/test_averaged.py::test_batch_norm_is_warned_of",
    36: "callbacks/test_parameter_table.py::test_it_is_printed_and_logged_if_there_are_roles",
    39: "training/test_requirements.py::test_a_layer_with_sparse_gradients_is_named",
    40: "param_groups/test_decay.py::test_nothing_to_train",
    41: "config/test_broken_files.py::test_it_is_named_with_its_line",
    45: "test_build.py::test_an_optimizer_of_yours",
    49: "test_build.py::test_an_optimizer_of_yours",
    50: "test_doctor.py::test_a_torchvision_for_cuda_beside_a_torch_without",
    53: "sweeps/test_names.py::test_odd_names_become_directories",
    54: "callbacks/test_nonfinite.py::test_stop_keeps_what_was_saved_before",
    55: "lightning/test_configure.py::test_an_overflow_moves_no_schedule",
    56: "callbacks/test_nonfinite.py::test_no_loss_again_and_again",
    57: "training/test_requirements.py::test_an_lr_that_stays_0_is_warned_of",
    58: "callbacks/test_failures.py::test_what_a_line_tells_better_than_a_traceback",
    59: "callbacks/test_failures.py::test_what_a_line_tells_better_than_a_traceback",
    60: "callbacks/test_failures.py::test_your_own_failure_keeps_its_traceback_and_tells_the_batch",
    61: "test_resume.py::test_killed_and_gone_on_with",
    62: "checkpoints/test_files.py::test_killed_at_any_moment",
    63: "checkpoints/test_files.py::test_a_full_disk_loses_nothing",
    64: "callbacks/test_failures.py::test_a_log_that_cannot_be_written_ends_nothing",
    66: "checkpoints/test_files.py::test_a_damaged_checkpoint_is_replaced_by_the_previous_one",
    67: "test_run.py::test_a_checkpoint_of_another_model",
    68: "config/test_resume.py::test_another_run_is_refused",
    69: "callbacks/test_refused_checkpoints.py::test_a_checkpoint_in_another_format_is_refused",
    70: "checkpoints/test_files.py::test_nothing_in_a_checkpoint_is_run",
    71: "test_run.py::test_two_processes_equal_one",
    72: "config/test_resume.py::test_what_may_change",
    74: "config/test_resume.py::test_a_finished_run_is_told",
    75: "test_resume.py::test_sigterm_leaves_a_checkpoint",
    76: "callbacks/test_failures.py::test_a_second_signal_ends_it_at_once",
    77: "sweeps/test_resumed_sweep.py::test_ctrl_c_in_a_sweep_reaches_its_jobs",
    78: "test_run.py::test_a_sweep_survives_its_jobs",
    81: "sweeps/test_resumed_sweep.py::test_a_sweep_that_was_killed",
    82: "config/test_command_line.py::test_a_used_directory_is_refused",
    84: "callbacks/test_failures.py::test_a_dead_rank_is_named_and_ends_the_other_ranks",
    85: "callbacks/test_observer.py::test_ranks_that_measure_differently_have_one_lr",
    86: "callbacks/test_launched.py::test_variables_of_an_earlier_launcher_are_ignored",
    87: "callbacks/test_launched.py::test_by_torchrun",
    88: "lightning/test_configure.py::test_the_horizon_is_what_the_trainer_does",
    89: "callbacks/test_learning_rates.py::test_a_changed_epoch_length_is_warned_of_once",
    90: "test_run.py::test_debug_fast_goes_through_everything",
    91: "callbacks/test_full_batch.py::test_a_trainer_can_fit_again",
    92: "callbacks/test_resumable.py::test_what_is_unfrozen_on_the_way",
    93: "lightning/test_configure.py::test_an_attached_module_can_be_copied_and_pickled",
    94: "callbacks/test_failures.py::test_a_log_that_cannot_be_written_ends_nothing",
    95: "callbacks/test_learning_rates.py::test_first_and_last_are_logged_however_short_the_run",
}
#: Of hyperparameter search.
SEARCH = {79, 80}


def answered(train, argv):
    done = train(*argv)
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("lit-optim: ")]
    assert "Traceback" not in done.stderr
    return line, done


@pytest.mark.parametrize(("row", "argv", "told"), FAULTS, ids=str)
@pytest.mark.sampled(30)
def test_a_fault_of_the_command_line(train, tmp_path, row, argv, told):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line, done = answered(train, argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told in line
    assert "+opt" not in line  # Hydra's advice would train the default
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())  # nothing is left behind
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LONGEST


@pytest.mark.parametrize(("row", "argv", "told"), LATER, ids=str)
def test_a_fault_that_needs_more_to_be_seen(train, row, argv, told):
    line, _ = answered(train, [*argv, "logger=none"])
    assert told in line


def test_a_traceback_is_shown_on_request(train):  # row 96
    for name in ("HYDRA_FULL_ERROR", "LIT_OPTIM_TRACE"):
        done = train("optimizer=adamv", **{name: "1"})
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("lit-optim: unknown optimizer 'adamv'")


def test_without_home_terminal_or_colours(tmp_path):  # row 83
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "debug=fast", "data=digits", "model=mlp"],
        cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout


def test_each_row_is_shown_by_a_test_that_exists():
    for where in SHOWN.values():
        file, _, name = where.partition("::")
        body = ast.parse((Path(__file__).parent / file).read_text("utf-8")).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        assert name in names, where
    rows = {row for row, *_ in (*FAULTS, *LATER)} | SHOWN.keys() | SEARCH
    assert rows | {83, 96} == set(range(1, 97))
