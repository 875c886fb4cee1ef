"""Packages whose names are found in their modules when they are used.

Importing such a package imports nothing else. A name that it does not have is reported with the
nearest one, by `package.Name` and by `from package import Name`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

#: The names that imports of a package suggest, by the name of the package.
_NAMES: dict[str, Callable[[], Iterable[str]]] = {}


def look_up_lazily(
    package: str,
    find_places: Callable[[], Mapping[str, str]],
    is_listed: Callable[[str], bool] = lambda place: True,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the `__getattr__` and `__dir__` of a package; `__all__` is looked up like a name.

        __getattr__, __dir__ = look_up_lazily(__name__, find_places)

    Args:
        package: its name.
        find_places: returns the public names, each with the module that defines it. A name may be
            that of a module of the package itself.
        is_listed: whether `__all__` and `dir` have the names of a module; not if it needs what is
            not installed, so that whatever is listed can be looked up.
    """

    def list_names() -> list[str]:
        return sorted(name for name, place in find_places().items() if is_listed(place))

    def get_attribute(name: str) -> Any:
        if name == "__all__":
            return list_names()
        # Python asks every package for names such as __path__
        places = {} if name.startswith("__") else find_places()
        if name not in places:
            raise no_attribute(package, name, places)
        module = import_module(places[name])
        return module if places[name] == f"{package}.{name}" else getattr(module, name)

    def list_attributes() -> list[str]:
        own = {name for name in vars(sys.modules[package]) if name.startswith("__")}
        return sorted({*own, *list_names()})

    suggest_in_imports(package, find_places)
    return get_attribute, list_attributes


def suggest_in_imports(package: str, find_names: Callable[[], Iterable[str]]) -> None:
    """Let `from package import Nmae` name the nearest of the package's names."""
    _NAMES[package] = find_names


def no_attribute(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a module does not have, with the nearest one of those it has."""
    from lit_optim.errors import suggest

    message = f"module {module!r} has no attribute {name!r}{suggest(name, known)}"
    # without an object, a traceback does not end with another suggestion
    return AttributeError(message, name=name, obj=None)


class _MisspeltImports:
    """Answers `from package import Nmae`; Python itself suggests nothing before 3.12.

    Python looks for a module of that name when the package has no such attribute. Who only asks
    whether a module is there, by `importlib.util.find_spec`, is told that it is not.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        package, _, name = fullname.rpartition(".")
        caller = sys._getframe(1).f_back
        is_import = caller is not None and caller.f_code.co_name == "_find_and_load_unlocked"
        if package in _NAMES and is_import:
            from lit_optim.errors import suggest

            near = suggest(name, _NAMES[package]())
            if near:
                raise ModuleNotFoundError(f"cannot import name {name!r} from {package!r}{near}")


def explain_misspelt_imports() -> None:
    """Let imports suggest names, after everything that exists was looked for."""
    if not any(isinstance(finder, _MisspeltImports) for finder in sys.meta_path):
        sys.meta_path.append(_MisspeltImports())
