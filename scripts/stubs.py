"""Write the stubs of what is looked up lazily, for type checkers and editors.

    python scripts/stubs.py            write them
    python scripts/stubs.py --check    exit code 1 and one line if a stub is out of date

A type checker reads `__init__.pyi` instead of `__init__.py`, and likewise for a module. All other
files of the package it reads themselves. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import inspect
import pkgutil
import sys
import types
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).parent.parent
HEAD = "# Written by scripts/stubs.py."


def main() -> None:
    """Write the stubs, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the directory of lit_optim/")
    args = parser.parse_args()
    for file, make_stub in STUBS.items():
        path, text = args.root / file, "\n".join([HEAD, *make_stub(), ""])
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        if args.check:
            sys.exit(f"stubs: {file} is out of date; run python scripts/stubs.py")
        path.write_text(text, "utf-8")


def describe_package() -> Iterator[str]:
    """`lit_optim`: every public name, from where it is defined."""
    package: Any = import_module("lit_optim")
    yield "from types import ModuleType"
    yield ""
    yield "import lit_optim.param_groups as _groups"
    yield from import_names(package, {*package.__all__} - {"param_groups"})
    yield ""
    yield from describe_param_groups()
    yield ""
    yield "__version__: str"
    yield from list_names(package.__all__)


def describe_param_groups() -> Iterator[str]:
    """The package `param_groups`, which can be called; to a type checker, an object."""
    package: Any = import_module("lit_optim.param_groups")
    yield "class _ParamGroups:"
    yield "    __call__ = staticmethod(_groups.divide_parameters)"
    for name in package.__all__:
        is_function = isinstance(getattr(package, name), types.FunctionType)
        yield f"    {name} = " + (
            f"staticmethod(_groups.{name})" if is_function else f"_groups.{name}"
        )
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    yield from (f"    {name}: ModuleType" for name in sorted(modules - {*package.__all__}))
    yield ""
    yield "param_groups: _ParamGroups"


def describe_schedules() -> Iterator[str]:
    """`lit_optim.schedules`: every schedule, from where it is defined."""
    package: Any = import_module("lit_optim.schedules")
    yield from import_names(package, package.__all__)
    yield from list_names(package.__all__)


def describe_schedulers() -> Iterator[str]:
    """`lit_optim.lr_schedulers`: the classes that it makes, with the arguments of each."""
    module: Any = import_module("lit_optim.lr_schedulers")
    imports: set[str] = set()
    classes = []
    for name in module.__all__:
        signature = inspect.signature(getattr(module, name))
        base = describe_hint(signature.return_annotation, imports)
        classes += ["", f"class {name}({base}):", "    def __init__(", "        self,"]
        classes += [f"    {line}" for line in describe_arguments(signature, imports)]
        classes += ["    ) -> None: ..."]
    yield from sorted(imports)
    yield from classes
    yield from list_names(module.__all__)


def describe_arguments(signature: inspect.Signature, imports: set[str]) -> Iterator[str]:
    """A line for each argument of a function."""
    is_by_keyword = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_by_keyword:
            is_by_keyword = True
            yield "    *,"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        yield f"    {parameter.name}: {describe_hint(parameter.annotation, imports)}{default},"


def describe_hint(hint: Any, imports: set[str]) -> str:
    """An annotation without ranges, as it is written; what it needs is added to `imports`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe_hint(args[0], imports)
    if origin in (Union, types.UnionType):
        return " | ".join(describe_hint(arg, imports) for arg in args)
    if origin is Literal:
        imports.add("from typing import Literal")
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None:
        inner = ", ".join(describe_hint(arg, imports) for arg in args)
        return f"{describe_hint(origin, imports)}[{inner}]"
    if hint in (None, types.NoneType):
        return "None"
    if hint.__module__ != "builtins":
        imports.add(f"from {hint.__module__} import {hint.__name__}")
    return str(hint.__name__)


def import_names(package: types.ModuleType, names: Collection[str]) -> list[str]:
    """An import of each name; `as` makes it one of the package as well."""
    lines = []
    for name in names:
        value = getattr(package, name)
        place = package.__name__ if isinstance(value, types.ModuleType) else value.__module__
        lines.append(f"from {place} import {name} as {name}")
    return sorted(lines)


def list_names(names: list[str]) -> Iterator[str]:
    """`__all__`."""
    yield ""
    yield "__all__ = ["
    yield from (f'    "{name}",' for name in names)
    yield "]"


STUBS: dict[str, Callable[[], Iterator[str]]] = {
    "lit_optim/__init__.pyi": describe_package,
    "lit_optim/schedules/__init__.pyi": describe_schedules,
    "lit_optim/lr_schedulers.pyi": describe_schedulers,
}

if __name__ == "__main__":
    main()
