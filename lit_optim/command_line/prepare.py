"""The command line of train.py before Hydra: every mistake that can be seen is one line.

The steps, each a function that can be called alone:

1. `parse_arguments`: options and overrides;
2. `translate`: what `hf=...` and the run behind `resume=...` stand for, as overrides;
3. `compose_and_check`: the configuration, composed once and checked once;
4. `find_run`: the run to resume, or a directory for a new one;
5. `hand_over`: the arguments for Hydra.

Nothing here imports torch. Hydra's own main composes the configuration again, for its mode and for
the run: it takes arguments, not a configuration, and sets up logging, the directory and the
launcher from what it composed itself. The result is not checked again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lit_optim import __version__
from lit_optim.command_line.arguments import Arguments, parse_arguments
from lit_optim.command_line.effects import check_best_is_known, check_effects, find_unused
from lit_optim.command_line.help import help_text
from lit_optim.command_line.plugins import (
    check_plugin_keys,
    check_plugins,
    check_processes,
    plugin_lines,
)
from lit_optim.command_line.searching import (
    SWEEPER,
    check_not_searching,
    check_searching,
    check_single,
    is_search,
)
from lit_optim.command_line.translate import Translation, check_sweep_directory, translate
from lit_optim.command_line.wrapping import terminal_width, wrap_lines
from lit_optim.config.check import check_config, to_plain, unusual_lr_warning
from lit_optim.config.composing import as_hydra_override, compose_each_value
from lit_optim.config.paths import quote
from lit_optim.config.places import groups
from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.sweep_settings import is_of_sweep
from lit_optim.config.targets import TARGET
from lit_optim.environment import forget_machines, is_first, is_one_of_several, passing_directory
from lit_optim.errors import UsageError, escape, printable
from lit_optim.runs.layout import CONFIG, JOB
from lit_optim.runs.resume import (
    ResumableRun,
    check_links,
    find_resumable,
    has_nothing_to_resume,
)
from lit_optim.streams import tell

#: What must fit into the directory of a run or a sweep.
PROBE_BYTES = 4096


@dataclass
class PreparedArgs:
    """A checked command line.

    Args:
        argv: the arguments for Hydra.
        text: to print instead of a run.
        sweep_dir: the directory of a sweep.
        lock: of that directory, if it is there already.
    """

    argv: list[str]
    text: str | None = None
    sweep_dir: Path | None = None
    lock: IO[bytes] | None = None


def prepare_command_line(argv: list[str]) -> PreparedArgs:
    """Check a command line as far as that is possible before torch is imported.

    Raises:
        UsageError: the first mistake.
    """
    args = parse_arguments(argv)
    if args.asks_version:
        return PreparedArgs(args.argv, f"lit-optim {__version__}")
    if args.asks_completion:
        return PreparedArgs(args.argv)  # Hydra's answer to half a line
    only_shows = args.asks_hydra or args.asks_help
    translation = translate(args.overrides, args.is_multirun, locks=not only_shows)
    if args.asks_hydra:
        if args.is_multirun:
            raise UsageError("--cfg and --info show a single run; leave out -m")
        of_runs = (one for one in translation.overrides if not is_of_sweep(one.key_or_group))
        lines = [str(override.input_line) for override in of_runs]
        return PreparedArgs([*args.options, *lines])
    if args.asks_help:
        text = help_for(translation.overrides)
        return PreparedArgs(args.argv, wrap_lines(text, terminal_width()))
    with _naming_hf(translation.from_hf):
        cfg = compose_and_check(translation, args.is_multirun)
    if cfg.trainer.get("num_nodes", 1) == 1:
        forget_machines()
    run = find_run(cfg, args.is_multirun)
    if run is not None and run.is_finished:
        return PreparedArgs(args.argv, escape(run.message))
    return hand_over(args, translation, cfg, run)


@contextmanager
def _naming_hf(lines: Sequence[str]) -> Iterator[None]:
    """Let a mistake in a key that `hf...` stands for say so: it was not typed."""
    try:
        yield
    except UsageError as error:
        for line in lines:
            if str(error).partition("=")[0].partition(" ")[0] == line.partition("=")[0]:
                raise UsageError(f"{error} (hf stands for {line})") from None
        raise


def help_for(overrides: Sequence[Override]) -> str:
    """The help text: of the choices and classes that these overrides name, or of all."""
    single = [override for override in overrides if not override.is_sweep_override()]
    chosen = {o.key_or_group: str(o.value()) for o in single if o.key_or_group in groups()}
    targets = {o.key_or_group: str(o.value()) for o in single if _names_class(o.key_or_group)}
    return help_text(chosen, targets)


def _names_class(key: str) -> bool:
    group, _, name = key.partition(".")
    return name == TARGET and group in groups()


def compose_and_check(translation: Translation, is_multirun: bool) -> DictConfig:
    """Compose the configuration and check it; in a sweep, with each of the values once.

    Returns:
        The configuration; of a sweep that of the first run.

    Raises:
        UsageError: the first mistake.
    """
    overrides = translation.overrides
    if not is_multirun:
        check_single(overrides)
    if is_multirun and is_one_of_several():
        raise UsageError(
            "-m starts its runs itself; it cannot be used under torchrun or with several tasks"
        )
    check_plugin_keys(overrides)
    for number, cfg in enumerate(compose_each_value(overrides)):
        if is_multirun and number == 0:
            if is_search(cfg):
                check_searching(cfg, overrides)
                check_effects(overrides, translation.typed, cfg, is_multirun)
                return cfg
            check_not_searching(cfg, overrides)
            check_plugins(cfg, overrides)
        if is_multirun:
            check_processes(cfg)
        check_config(cfg)
    check_effects(overrides, translation.typed, cfg, is_multirun)
    check_best_is_known(to_plain(cfg))
    return cfg


def find_run(cfg: DictConfig, is_multirun: bool) -> ResumableRun | None:
    """Find the run or sweep to resume; a new one must have a directory that can be written.

    Returns:
        None where `resume` is not asked for.

    Raises:
        UsageError: there is no such run, or its directory cannot be used.
    """
    where = cfg.resume["from"]
    run = None
    if where not in (None, NONE) and is_multirun:
        check_sweep_directory(where)
        check_links(Path(where))
        run = ResumableRun(Path(where), f"resuming {where}")
    elif where not in (None, NONE):
        run = find_resumable(to_plain(cfg), own=Path(cfg.hydra.run.dir))
    place = "sweep" if is_multirun else "run"
    if run is not None and run.run_dir is not None:
        _check_name("resume", run.run_dir, "move it to another directory")
    elif is_first():
        key = f"hydra.{place}.dir"
        _check_name(key, Path(cfg.hydra[place].dir), f"choose another with {key}=DIR")
        _check_directory(cfg, is_multirun)
    return run


def _check_name(key: str, path: Path, hint: str) -> None:
    """Refuse a directory in which torch cannot read checkpoints, nor TensorBoard write."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path.absolute()).decode(errors="backslashreplace")
        raise UsageError(
            f"{key}={shown}: torch and TensorBoard cannot use a path that is not UTF-8; {hint}"
        ) from None


def _check_directory(cfg: DictConfig, is_multirun: bool) -> None:
    """Runs never share a directory, and one that cannot be written is refused before training."""
    place, left = ("sweep", f"*/{JOB}") if is_multirun else ("run", CONFIG)
    path = Path(cfg.hydra[place].dir)
    existing = path
    try:
        begins_anew = cfg.resume["from"] == AUTO and has_nothing_to_resume(path)
        if any(path.glob(left)) and not begins_anew:
            raise UsageError(f"hydra.{place}.dir={path} already holds a {place}; choose another")
        parents = (path, *path.absolute().parents)
        existing = next(one for one in parents if os.path.exists(one))
        with TemporaryFile(dir=existing, buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))  # a full disk creates files, but holds nothing
    except OSError as error:
        raise UsageError(
            f"hydra.{place}.dir={path}: cannot write into {existing}: {error.strerror}"
        ) from None


def hand_over(
    args: Arguments, translation: Translation, cfg: DictConfig, run: ResumableRun | None
) -> PreparedArgs:
    """Make the arguments for Hydra, and print what the user should know.

    Keys are rewritten so that Hydra takes any that their constructor accepts, with or without `+`.
    """
    if is_first():
        _print_notes(args, translation, cfg, run)
    lines = [*map(as_hydra_override, translation.overrides)]
    sweep_dir = None
    if args.is_multirun:  # the time in its name is that of now, not of when Hydra composes
        resumed = None if run is None else run.run_dir
        sweep_dir = resumed or Path(cfg.hydra.sweep.dir)
        replaced = ("hydra.sweep.dir=", *(["++resume.from="] if run is not None else []))
        lines = [line for line in lines if not line.startswith(replaced)]
        lines += plugin_lines(cfg, translation.overrides)
        if is_search(cfg):
            lines.append(f"hydra/sweeper={SWEEPER}")
        lines.append(f"hydra.sweep.dir={quote(sweep_dir)}")
    elif run is not None:
        lines = [line for line in lines if not line.startswith("++resume.from=")]
        if run.run_dir is not None:
            lines = [line for line in lines if not line.startswith("hydra.run.dir=")]
            where = quote(run.run_dir)
            lines += [f"++resume.from={where}", f"hydra.run.dir={where}"]
    if not is_first():
        lines.append("hydra.output_subdir=null")  # the first process writes it
        if not any(line.startswith("hydra.run.dir=") for line in lines):
            # launched with the first one, whose directory it neither knows nor needs
            lines.append(f"hydra.run.dir={quote(passing_directory())}")
    return PreparedArgs([*args.options, *lines], sweep_dir=sweep_dir, lock=translation.lock)


def _print_notes(
    args: Arguments, translation: Translation, cfg: DictConfig, run: ResumableRun | None
) -> None:
    """Warnings to stderr; what `hf` and `resume` stand for to stdout."""
    plain = to_plain(cfg)
    if not args.is_multirun:  # the runs of a sweep warn themselves
        lr_warning = unusual_lr_warning(plain["optimizer"])
        for warning in filter(None, (lr_warning, *find_unused(translation.typed, plain))):
            tell(f"warning: {printable(warning)}")
    if translation.from_hf:
        print("hf:", *map(printable, map(shlex.quote, translation.from_hf)))
    if translation.untranslated:
        print("hf: left out:", printable(translation.untranslated))
    if run is not None:
        typed = (str(one.input_line).lstrip("+") for one in translation.recorded)
        recorded = escape(shlex.join(typed))
        message = escape(run.message)
        print(f"{message}: {recorded}" if recorded else message)
