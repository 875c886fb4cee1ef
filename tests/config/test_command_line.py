"""Mistakes on the command line: one line each, before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.errors import UsageError
from tests.conftest import ROOT

MISTAKES = {
    # faults 1 to 8: names
    "optimizer=sgd.yaml": "unknown optimizer 'sgd.yaml'; did you mean sgd",
    "hydra.run.dir=" + "x" * 300: "no file has a name of more than 255 bytes",
    "resume=" + "x" * 300: "no file has a name of more than 255 bytes",
    "resume=" + "a/" * 3000: "a path has at most 3,500 bytes",
    "=": "'=' has no key",
    "--resolve": "--resolve goes with --cfg job",
    "+=1": "'+=1' has no key",
    "~": "'~' has no key",
    "optimizer=xyz": "unknown optimizer 'xyz'; it is one of ada",
    "++optmizer=adamw": "unknown key optmizer; did you mean optimizer?",
    "optimizer.momentum=0.9": "unknown key optimizer.momentum (AdamW takes lr, betas, eps",
    "scheduler.step_size=3": "scheduler.step_size; did you mean scheduler.step_alignment?",
    "trainer.max_stepz=4": "unknown key trainer.max_stepz; did you mean trainer.max_steps",
    "callbacks.checkpoint.moniter=x": "moniter; did you mean callbacks.checkpoint.monitor",
    "~optimizer": "optimizer is required",
    "scheduler=null": "scheduler is required; one of cha",
    # faults 9 to 19: values
    "optimizer.lr=true": "optimizer.lr must be a number > 0, got True",
    "optimizer.lr=": "optimizer.lr must be a number > 0, got ''",
    "optimizer.lr=null": "optimizer.lr must be a number > 0, got None",
    "optimizer.lr=[1]": "optimizer.lr must be a number > 0, got [1]",
    "optimizer.amsgrad=1": "optimizer.amsgrad must be true or false, got 1",
    # faults 22 to 29: the schedule and the run
    "scheduler.warmup=5000": "scheduler.warmup=5000: 5000 steps, but the run has 4000",
    "scheduler.warmup='5 weeks'": "scheduler.warmup must be a whole number or text such as 500",
    "scheduler.min_lr_ratio=1.5": "scheduler.min_lr_ratio must be a number in [0, 1], got 1.5",
    "scheduler.step_alignment=middle": "must be one of end, start, both, got 'middle'",
    "trainer.max_steps=-1": "the run has no end: set trainer.max_steps or trainer.max_epochs",
    "trainer.logger=false": "trainer.logger is made of the group logger; choose logger=...",
    "trainer.default_root_dir=x": "trainer.default_root_dir is the run's directory",
    # faults 42 to 48: targets, settings
    "optimizer._target_=torch.hub.load": "optimizer._target_=torch.hub.load is not allowed",
    "optimizer._target_=lit_optim.optimizers.adamw.AdamWW": "has no AdamWW; did you mean AdamW?",
    "optimizer._target_=lit_optim.optimizers.adamv.AdamW": "no module lit_optim.optimizers.adamv",
    "optimizer._partial_=true": "optimizer._partial_ is not used here",
    "model.extra._target_=os.system": "model.extra._target_=os.system is not allowed",
    "allow=[os]": "allow=os is refused: it is not your own package",
    "allow=torch": "allow=torch is refused",
    "model=custom": "model._target_: must be given, such as model._target_=yours.Name al",
    "seed=null": "seed must be a whole number in [0, 4294967295], got None",
    "mode=best": "mode must be one of min, max or null, got 'best'",
    "experiment=null": "experiment is required; one of char_lm_nanogpt",
    "callbacks.checkpoint=null": "callbacks.checkpoint cannot be null; to leave it out, use ~callb",
    "callbacks.x._target_=lightning.pytorch.callbacks.model_checkpoint.os.system": "there is no",
    "callbacks.x._target_=lightning.pytorch.callbacks.model_checkpoint.torch.load": "there is no",
    "callbacks.x._target_=lit_optim.callbacks.checkpoint.torch.load": "there is no module lit",
    "callbacks.x._target_=lit_optim.optimizers.adamw.AdamW": "is not allowed",
    "trainer.plugins={_target_: lit_optim.wrappers.torch.load}": "trainer.plugins._target_=",
    "model.extra={_target_: lit_optim.tasks.classifiers.MLP}": "is not allowed",
    "wrapper._target_=lit_optim.wrappers.unwrap": "lit_optim.wrappers.unwrap is not allowed",
    "param_groups._target_=lit_optim.param_groups.snapshot_groups": "is not allowed",
    "lr_rule._target_=lit_optim.lightning.lr_rule.check": "lr_rule.check is not allowed",
    "allow=[os.path]": "allow=os.path is refused",
    "--config-name=other": "--config-name: the defaults always come from lit-optim",
    "n_jobs=0": "n_jobs must be a whole number > 0, got 0",
    "data.batch_size=0": "data.batch_size must be a whole number > 0, got 0",
    "data.val_share=1.5": "data.val_share must be a number in [0, 1), got 1.5",
    "train=false": "train=false needs ckpt=runs/.../checkpoints/best.ckpt, a file",
    "ckpt=some.ckpt": "ckpt=some.ckpt is only tested; add train=false",
    # what Lightning would complain of late, or do nothing about
    "trainer.accumulate_grad_batches=0": "must be a whole number > 0, got 0",
    "trainer.check_val_every_n_epoch=0": "must be a whole number > 0 or null, got 0",
    "trainer.val_check_interval=0": "a part of an epoch in (0, 1], null, a time such as",
    "trainer.max_time=abc": "trainer.max_time must be null, a time such as 00:01:30:00",
    "trainer.gradient_clip_val=0": "gradient_clip_val must be a number > 0 or null, got 0",
    "trainer.gradient_clip_val=inf": "gradient_clip_val must be a number > 0 or null, got inf",
    "trainer.gradient_clip_algorithm=value": "does nothing without trainer.gradient_clip_val",
    "trainer.min_steps=5000": "trainer.min_steps=5000, but trainer.max_steps=4000",
    "trainer.limit_train_batches=0": "limit_train_batches must be a whole number > 0 or a number",
    "trainer.log_every_n_steps=-1": "log_every_n_steps must be a whole number >= 0 or null",
    "trainer.profiler=fast": "trainer.profiler must be one of simple, advanced, pytorch or null",
    # what has no effect
    "cooldown=5": "cooldown=5 does nothing without branch_from=...",
    "resume.horizon=keep": "resume.horizon=keep does nothing without resume=...",
    "resume.override=[optimizer.lr]": "does nothing without resume=...",
    "callbacks.checkpoint={}": "an empty one changes nothing; to remove it, use ~callbacks.chec",
    "monitor=": "monitor must be text or null, got ''",
    "optimizer.params=[1]": "optimizer.params is given by the run",
    "wrapper.base=1": "wrapper.base is given by the run",
    # what is incomplete
    "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping": "monitor must be given",
    # what Hydra takes, and breaks at or goes its own way
    "optimizer.betas.x=1": "optimizer.betas.x=1 cannot be put there; a list is given whole",
    "~optimizer.betas.0": "~optimizer.betas.0 cannot be put there; a list is given whole",
    "hydra.run.dir=": "hydra.run.dir must be a directory, got ''",
    "hydra.mode=": "hydra.mode must be RUN, got ''",
    "hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2 does nothing without -m",
    "hydra.sweep.subdir=x": "hydra.sweep.subdir is not used: the directory of a run in a sweep",
    "allow=[.]": "allow='.' is not the name of a package",
    # what cannot be read at all
    "--lr=1": "unrecognized arguments: --lr=1; values are given as in optimizer.lr=1e-3",
    "optimizer/adamw=1": "unknown group optimizer/adamw",
    "adamv": "cannot read 'adamv'; write key=value",
    "optimizer.betas=[0.9": "cannot read 'optimizer.betas=[0.9'",
}


@pytest.mark.sampled(30)
@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_answered_in_one_line(argument):
    with pytest.raises(UsageError) as error:
        prepare_command_line([argument])
    assert MISTAKES[argument] in str(error.value)
    assert "\n" not in str(error.value)
    assert "+opt" not in str(error.value)  # Hydra's advice would train the default


@pytest.mark.sampled(20)
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-m", "optimizer=adamw,sgdd"], "unknown optimizer 'sgdd'; did you mean sgd?"),
        (
            ["-m", "seed=0,1", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs must be a whole number > 0, got 0",
        ),
        (["-m", "optimizer=adamw,sgd", "optimizer.lr=1,-1"], "optimizer.lr must be a number > 0"),
        (
            ["-m", "optimizer=adamw,sgd", "optimizer.eps=1e-6"],
            "unknown key optimizer.eps (SGD takes",
        ),
        (
            ["optimizer=muon", "optimizer.roles={first.weight: othr}"],
            "optimizer.roles must be a mapping of names to one of hidden, other or null, got {'fir",
        ),
        (["-m", "seed=range(0,3)", "scheduler=step,cosin"], "unknown scheduler 'cosin'"),
        (["optimizer=sgd", "optimizer.betas=[.9,.9]"], "unknown key optimizer.betas (SGD takes lr"),
        (
            ["scheduler.warmup=50", "trainer.max_steps=20"],
            "warmup=50: 50 steps, but the run has 20",
        ),
        (
            ["scheduler=wsd", "scheduler.warmup=50%", "scheduler.cooldown=60%"],
            "scheduler.cooldown=60%: 2400 steps, but the run has 4000 and 2000 of them are taken",
        ),
        (["scheduler=CosineAnnealingLR", "scheduler.T_max=0"], "scheduler.T_max must be more than"),
        (
            ["scheduler=step", "scheduler.step_size=0"],
            "scheduler.step_size must be more tha",
        ),
        (["scheduler=StepLR", "scheduler.interval=epochs"], "interval must be one of step, epoch"),
        (["scheduler=linear", "scheduler.num_warmup_steps=5"], "(linear takes warmup, min_lr_rat"),
        (
            ["scheduler=cosine_min_lr", "scheduler.min_lr=1e-4", "scheduler.min_lr_ratio=0.1"],
            "scheduler.min_lr=0.0001 and min_lr_ratio=0.1: give only one of them",
        ),
        (
            ["scheduler=sequential", "scheduler.schedules=[{name: constan},{name: cosine}]"],
            "scheduler.schedules.0 must be a schedule such as {name: cosine, warmup: 5%}",
        ),
        (["scheduler=sequential", "scheduler.milestones=[30%,60%]"], "one fewer than the 2 sched"),
        (["scheduler=sequential", "scheduler.schedules=[{name: plateau}]"], "responds to a metric"),
        (["scheduler=chained", "scheduler.schedules=[{name: step, x: 1}]"], "unknown key x"),
        # formulas: arithmetic only, and functions only of allowed packages
        (["scheduler=lambda", 'scheduler.expr=__import__("os")'], "unknown '__import__'"),
        (["scheduler=lambda", "scheduler.expr=max(0,1-stp)"], "'stp' in 'max(0,1-stp)'; did you"),
        (["scheduler=lambda", "scheduler.expr=1-2*progress"], "at step 2000, not a factor >= 0"),
        (["scheduler=lambda", "scheduler.expr=os.system"], "scheduler.expr=os.system is not allo"),
        (
            ["scheduler=sequential", "scheduler.schedules=[{name: lambda, expr: os.system}]"],
            "scheduler.schedules.0.expr=os.system is not allowed",
        ),
        (["scheduler=LambdaLR", "scheduler.lr_lambda=subprocess.run"], "=subprocess.run is not a"),
        (
            ["scheduler=lambda", "scheduler.expr=user_code.f", "allow=[user_code]"],
            "no module user_code",
        ),
        (["scheduler.expr=1", "scheduler=lambda", "scheduler.expr=" + "1+" * 5000 + "1"], "cannot"),
        # nothing is imported that allow does not name, by whatever way
        (
            [
                "scheduler=none",
                "scheduler._target_=lit_optim.schedules.formula_schedules.FormulaSchedule",
                "scheduler.text=evil.f",
            ],
            "lit_optim.schedules.formula_schedules.FormulaSchedule is not a schedule",
        ),
        (
            ["scheduler._target_=lit_optim.schedules.formula_schedules.import_module"],
            "scheduler._target_=lit_optim.schedules.formula_schedules.import_module is not allowed",
        ),
        (
            ["optimizer._target_=torch.optim.lr_scheduler.partial"],
            "optimizer._target_=torch.optim.lr_scheduler.partial is not allowed",
        ),
        (
            ["scheduler=lambda", "scheduler.expr=torch.optim.lr_scheduler.partial"],
            "scheduler.expr=torch.optim.lr_scheduler.partial is not allowed",
        ),
        (
            ["hydra.callbacks.report._target_=evil.f"],
            "hydra.callbacks.report._target_ cannot be set on",
        ),
        (["hydra.searchpath=[x]"], "hydra.searchpath cannot be set on the command line"),
        (["hydra.launcher={_target_: evil.f}"], "hydra.launcher cannot be set on the command line"),
        # nor from within what is allowed
        (
            [
                "callbacks.x._target_=lightning.pytorch.callbacks.LambdaCallback",
                "callbacks.x.on_train_start={_target_: lit_optim.wrappers.torch.load, f: x}",
            ],
            "callbacks.x.on_train_start._target_=lit_optim.wrappers.torch.load is not allow",
        ),
        (["optimizer=LBFG"], "did you mean lbfgs?"),
        (["optimizer=Muon"], "did you mean muon?"),
        (["optimizer=AdamW"], "did you mean adamw?"),
        (["train=false", "test=false"], "leaves nothing to do"),
        (["scheduler.total=100", "scheduler.warmup=200"], "scheduler.warmup=200: 200 steps, but"),
        (["-m", "seed=range(0,0)"], "seed=range(0,0): there is nothing to sweep over"),
        (["-m", "seed=range(0,10,0)"], "seed=range(0,10,0) cannot be swept over"),
        (["-m", "seed=range(0,10000000000)"], "more than 10,000 values; sweep over fewer"),
        (
            ["-m", "seed=range(0,1000)", "optimizer.lr=range(1,1000)"],
            "-m asks for 999,000 runs, but at most 10,000 are",
        ),
        (
            ["-m", "optimizer.lr=interval(0,1)"],
            "is only for a search; add search.trials=12, or list its",
        ),
        (["-m", "hydra.run.dir=a,b"], "hydra.run.dir=a,b applies to all runs"),
        (["-m", "n_jobs=1,2"], "n_jobs=1,2 applies to all runs"),
        (
            ["trainer.min_epochs=5", "trainer.max_epochs=2"],
            "=5, but trainer.max_epochs=2",
        ),
        (
            ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=0.5"],
            "trainer.val_check_interval=0.5 is a part of an epoch; with",
        ),
        (["ckpt=best", "~callbacks.checkpoint"], "ckpt=best needs a checkpoint callback"),
        (["ckpt=best", "trainer.enable_checkpointing=false"], "ckpt=best needs a checkpoint callb"),
        (["-m", "experiment=null,none"], "experiment is required"),
        (["train=false", "ckpt=nowhere.ckpt"], "nowhere.ckpt is not a file"),
        (["trainer.max_epochs=0"], "nothing to train"),
    ],
    ids=str,
)
def test_several_arguments(argv, message):
    with pytest.raises(UsageError) as error:
        prepare_command_line(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line", ["optimizer=adamv", "+optmizer=adamw", "optimizer.lr=-1", "--lr=1"]
)
def test_as_a_user_sees_it(train, tmp_path, line):
    done = train(line)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("lit-optim: ")
    assert not list(tmp_path.iterdir())  # no run directory


def test_no_mistake_loads_torch():
    code = (
        "import sys; from lit_optim.app import main; sys.argv = ['train.py', sys.argv[1]]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2 and '=' in sys.argv[1]\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'numpy')))"
    )
    for argument in ("optimizer=adamv", "optimizer.lr=-1", "scheduler.warmup=9999", "--help"):
        done = subprocess.run([sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["optimizer.lr=1000"], "optimizer.lr=1000 is far from the usual range of AdamW, "),
        (
            ["optimizer=prodigy", "optimizer.lr=1e-4"],
            "=0.0001 is far from the usual range of Prodigy",
        ),
        (["optimizer=prodigy", "optimizer.lr=5"], ""),
        (["optimizer.lr=0.1"], ""),
        (["-m", "optimizer.lr=1000,1"], ""),  # each run tells its own
    ],
)
def test_an_lr_that_nobody_uses_is_told(capsys, argv, told):
    assert prepare_command_line(argv).argv
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == bool(told)


def test_a_used_directory_is_refused(tmp_path):
    for argv, left in (
        ([f"hydra.run.dir={tmp_path}"], "config.yaml"),
        (["-m", f"hydra.sweep.dir={tmp_path}", "seed=1,2"], "seed=1/job.json"),
    ):
        assert prepare_command_line(argv).argv
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).touch()
        with pytest.raises(UsageError, match=r"already holds a (run|sweep); choose another"):
            prepare_command_line(argv)
