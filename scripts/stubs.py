"""Write the stubs of packages that look their names up lazily, for type checkers and editors.

    python scripts/stubs.py            write them
    python scripts/stubs.py --check    exit code 1 and one line if a stub is out of date

Type checkers read a stub `__init__.pyi` instead of `__init__.py`; all other modules they read
themselves. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import lit_optim

ROOT = Path(__file__).parent.parent
HEAD = "# Written by scripts/stubs.py."


def main() -> None:
    """Write the stubs, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the directory of lit_optim/")
    args = parser.parse_args()
    for file, make_stub in STUBS.items():
        path, text = args.root / file, make_stub()
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        if args.check:
            sys.exit(f"stubs: {file} is out of date; run python scripts/stubs.py")
        path.write_text(text, "utf-8")


def make_package_stub() -> str:
    """The stub of `lit_optim`: every public name, from where it is defined."""
    names = lit_optim.__all__
    lines = [HEAD, "from types import ModuleType", "", "import lit_optim.param_groups as _groups"]
    lines += sorted(
        f"from {place_of(name)} import {name} as {name}" for name in names if name != "param_groups"
    )
    lines += ["", *describe_param_groups(), "", "__version__: str", "", *list_names(names), ""]
    return "\n".join(lines)


def describe_param_groups() -> Iterator[str]:
    """The package `param_groups`, which can be called; to a type checker, an object."""
    package: Any = import_module("lit_optim.param_groups")
    yield "class _ParamGroups:"
    yield "    __call__ = staticmethod(_groups.divide_parameters)"
    for name in package.__all__:
        is_function = isinstance(getattr(package, name), FunctionType)
        yield f"    {name} = " + (
            f"staticmethod(_groups.{name})" if is_function else f"_groups.{name}"
        )
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    yield from (f"    {name}: ModuleType" for name in sorted(modules - {*package.__all__}))
    yield ""
    yield "param_groups: _ParamGroups"


def place_of(name: str) -> str:
    """The module that defines a public name, or `lit_optim` if the name is one of its modules."""
    value = getattr(lit_optim, name)
    return "lit_optim" if isinstance(value, ModuleType) else str(value.__module__)


def list_names(names: list[str]) -> Iterator[str]:
    """The lines of `__all__`."""
    yield "__all__ = ["
    yield from (f'    "{name}",' for name in names)
    yield "]"


STUBS: dict[str, Callable[[], str]] = {"lit_optim/__init__.pyi": make_package_stub}

if __name__ == "__main__":
    main()
