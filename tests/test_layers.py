"""Imports point down, and only who must knows Hydra and Lightning."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lit_optim"
#: Lowest first; a package imports only from the layers below it, never from its own layer.
LAYERS = (
    ("streams", "system"),
    (
        "backward_watcher",
        "environment",
        "errors",
        "group_fields",
        "hydra",
        "lean_start",
        "missing",
        "moved_names",
        "runs.layout",
        "temporary",
    ),
    (
        "hyperparameters",
        "imitated",
        "interrupts",
        "kernels",
        "lazy_names",
        "lightning_classes",
        "metric_names",
        "printing",
        "programs",
        "requirements",
        "run_length",
        "sharding",
        "threads",
        "torch_hooks",
        "untrusted",
        "updates",
    ),
    ("param_groups",),
    ("checkpoints", "optimizers", "schedules", "signatures", "wrappers"),
    ("config", "lr_schedulers", "making", "release", "tasks", "training"),
    ("callbacks", "hf_arguments", "hf_groups"),
    ("lightning",),
    ("hf",),
    ("lightning.cli_parser",),
    ("lightning.cli",),
    ("compat", "runs"),
    ("results",),
    ("sweeps",),
    ("search",),
    ("tournament",),
    ("command_line",),
    ("race", "reports"),
    ("commands",),
    ("app", "cli"),
    ("entry",),
    ("__main__",),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
KNOW_HYDRA = {
    "app", "command_line", "compat", "config", "reports", "results", "runs", "search",
    "sweeps", "tournament",
}  # fmt: skip
#: The command line answers before it is loaded.
KNOW_LIGHTNING = {
    "app", "lightning.cli", "lightning.cli_parser", "lightning_classes", "reports", "runs", "tasks",
    "training",
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def package(path: Path) -> str:
    return package_of([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])


def package_of(parts: list[str]) -> str:
    """The package that a module is in, or the module if it has a place in a layer itself."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in LAYER else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = package(path)
    if here == "__init__":
        return
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "lit_optim" and rest:
            other = package_of(rest)
            allowed = other == here or LAYER[other] < LAYER[here]
            # packages of the same layer do not import each other
            assert allowed, f"{here} (layer {LAYER[here]}) imports {other} (layer {LAYER[other]})"
        if top in ("hydra", "omegaconf"):
            assert here in KNOW_HYDRA, f"{here} imports {top}"
        if top == "lightning":
            assert here in KNOW_LIGHTNING, f"{here} imports lightning"


@pytest.mark.parametrize(
    "path",
    [*FILES, *(PACKAGE.parent / "hydra_plugins").rglob("*.py")],
    ids=lambda p: str(p.relative_to(PACKAGE.parent)),
)
def test_the_main_program_is_looked_up_when_it_is_needed(path):
    """A command that goes on as a module replaces it; an import would keep the one before."""
    assert "__main__" not in imports(path)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` imports that module
            found |= inner & modules if inner <= modules else (inner & modules) | {node.module}
    return found & modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components)."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {module: reachable(module) for module in graph}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return sorted(map(list, groups))


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": set()}
    assert circles(graph) == [["b", "c"]]


def test_no_modules_import_each_other():
    modules = {module_name(path): path for path in FILES}
    graph = {name: imported_modules(path, set(modules)) for name, path in modules.items()}
    assert circles(graph) == []


def test_every_package_has_a_layer():
    assert {package(path) for path in FILES} - {"__init__"} == set(LAYER)


def test_config_and_schedules_do_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys; import lit_optim, lit_optim.app, lit_optim.schedules.library;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_consoles_are_made_in_one_way(path):
    """Rich's own ends the process when nobody reads a pipe; it makes one where none is given."""
    if path.name == "printing.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            assert not {alias.name for alias in node.names} & {"Console", "get_console", "track"}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Progress", "Live"):
            assert "console" in {keyword.arg for keyword in node.keywords}, node.lineno
