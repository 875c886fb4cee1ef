"""The arguments of train.py, split into Hydra's options and overrides."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from dataclasses import dataclass

from hydra._internal.utils import get_args_parser

from lit_optim.config.places import OPTION, conf_dir_option, use_conf_dir
from lit_optim.errors import UsageError

#: `resume=runs/...` is short for `resume.from=runs/...`.
SHORT_RESUME = re.compile(r"^\+{0,2}resume=")
#: `launcher.fresh=true` is short for `hydra.launcher.fresh=true`.
SHORT_LAUNCHER = re.compile(r"^(\+{0,2})launcher\.")
#: Options that Hydra answers itself.
HYDRA_ANSWERS = ("info", "hydra_help", "cfg")


@dataclass(frozen=True)
class Arguments:
    """Parsed arguments.

    Args:
        argv: all of them, with `resume=` and `launcher.` written out.
        options: those that begin with a dash, as Hydra gets them.
        overrides: the others.
        is_multirun: whether `-m` was given.
        asks_version: whether `--version` was given.
        asks_help: whether `--help` was given.
        asks_completion: whether Hydra's own shell completion asks.
        asks_hydra: whether an option was given that Hydra answers, such as `--cfg`.
    """

    argv: list[str]
    options: list[str]
    overrides: list[str]
    is_multirun: bool = False
    asks_version: bool = False
    asks_help: bool = False
    asks_completion: bool = False
    asks_hydra: bool = False


def parse_arguments(argv: list[str]) -> Arguments:
    """Split a command line; a directory given by --config-dir is used from now on.

    Raises:
        UsageError: an unknown option, or one that is not used here.
    """
    argv = [SHORT_RESUME.sub("resume.from=", argument) for argument in argv]
    argv = [SHORT_LAUNCHER.sub(r"\1hydra.launcher.", argument) for argument in argv]
    if "--version" in argv:
        return Arguments(argv, [], [], asks_version=True)
    args = _parse(argv)
    return Arguments(
        argv,
        _hydra_options(argv, args),
        args.overrides,
        is_multirun=args.multirun,
        asks_help=args.help,
        asks_completion=args.shell_completion,
        asks_hydra=any(getattr(args, name) for name in HYDRA_ANSWERS),
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            args = get_args_parser().parse_intermixed_args(argv)
    except SystemExit as end:
        if not end.code:
            raise  # --version has printed its answer
        last = complaint.getvalue().strip().splitlines()[-1].rpartition("error: ")[2]
        raise UsageError(f"{last}; values are given as in optimizer.lr=1e-3") from None
    for option in ("config_path", "config_name"):
        if getattr(args, option):
            raise UsageError(
                f"--{option.replace('_', '-')}: the defaults always come from lit-optim; add your "
                f"own choices with {OPTION} DIR"
            )
    use_conf_dir(args.config_dir)
    if args.resolve and not (args.cfg or args.help):
        raise UsageError("--resolve goes with --cfg job or --help")
    if args.experimental_rerun:  # it unpickles what a directory holds, which can run anything
        raise UsageError("--experimental-rerun is not used here; use resume=DIR")
    unknown = [argument for argument in args.overrides if argument.startswith("--")]
    if unknown:
        name = unknown[0].lstrip("-")
        raise UsageError(f"unknown option {unknown[0]}; values are given without dashes: {name}")
    return args


def _hydra_options(argv: list[str], args: argparse.Namespace) -> list[str]:
    """The options, with the absolute path of --config-dir."""
    rest = iter(argument for argument in argv if argument not in args.overrides)
    options = []
    for argument in rest:
        if argument in (OPTION, "-cd"):
            next(rest)
        elif not argument.startswith((f"{OPTION}=", "-cd")):
            options.append(argument)
    return [*options, *conf_dir_option()]
