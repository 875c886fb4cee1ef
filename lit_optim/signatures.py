"""The arguments of a constructor, read from its source or from the object itself.

Reading the source with `ast` imports nothing, so that a typo on the command line is reported before
torch is loaded. Names are resolved through imports, base classes, the fields of classes whose
constructor is made from them, and `Unpack` of a TypedDict.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from lit_optim.hyperparameters import UNPACKS, hints_of
from lit_optim.moved_names import current_name


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor: what it accepts, and whether it must be given."""

    annotation: Any
    required: bool


@dataclass
class Signature:
    """The arguments of a constructor by name; `open` if it takes others that cannot be read."""

    parameters: dict[str, Parameter] = field(default_factory=dict)
    open: bool = False


def inspect_signature(function: Callable[..., Any]) -> Signature:
    """The signature of an imported class or function; see `read_signature`."""
    init = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        hints = hints_of(init)
    except Exception:  # a name that only a type checker knows: do not judge it
        hints = {}
    signature = Signature()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and get_origin(hints.get(name)) in UNPACKS:
            for key in get_type_hints(get_args(hints[name])[0]):
                signature.parameters[key] = Parameter(hints[key], required=False)
        elif parameter.kind is parameter.VAR_KEYWORD:
            signature.open = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            required = parameter.default is parameter.empty
            signature.parameters[name] = Parameter(hints.get(name, Any), required)
    return signature


@cache
def read_signature(target: str) -> Signature | None:
    """The signature of the class or function with this dotted name, read from its source.

    Returns:
        None where there is no such name, or its source cannot be found without importing it.
    """
    found = _find(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return _of_function(module, node)
    return _of_class(module, node) if isinstance(node, ast.ClassDef) else None


def read_docstring(target: str) -> str | None:
    """The docstring of the class or function with this dotted name, read from its source.

    Returns:
        None where there is none, or its source cannot be found without importing it.
    """
    found = _find(target)
    if found is None or not isinstance(found[1], ast.ClassDef | ast.FunctionDef):
        return None
    return ast.get_docstring(found[1])


def read_attribute(target: str, name: str) -> Any:
    """The literal that a class, or the first of its bases that has one, gives an attribute.

    Returns:
        None where there is none, or its source cannot be found without importing it.
    """
    match _find(target):
        case (module, ast.ClassDef() as node):
            for statement in node.body:
                match statement:
                    case ast.AnnAssign(target=target_node, value=value) if value is not None:
                        targets = [target_node]
                    case ast.Assign(targets=targets, value=value):
                        pass
                    case _:
                        continue
                if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                    return ast.literal_eval(value)
            for base in node.bases:
                inherited = read_attribute(f"{module.name}.{ast.unparse(base)}", name)
                if inherited is not None:
                    return inherited
    return None


def defined_in(target: str) -> str | None:
    """The module whose source defines this dotted name, however many imports lie between."""
    found = _find(target)
    return None if found is None else found[0].name


@dataclass(frozen=True)
class _Module:
    name: str
    path: Path
    body: tuple[ast.stmt, ...]

    def scope(self) -> Iterator[ast.stmt]:
        """The statements that define names, `if TYPE_CHECKING:` and the like included."""
        for statement in self.body:
            yield statement
            if isinstance(statement, ast.If):
                yield from statement.body

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        """The statement that first defines each name, by an import too."""
        found: dict[str, ast.stmt] = {}
        for statement in self.scope():
            match statement:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    names = [name]
                case ast.Assign(targets=[ast.Name(id=name)]):
                    names = [name]
                case ast.ImportFrom(names=aliases):
                    names = [alias.asname or alias.name for alias in aliases]
                case _:
                    continue
            for name in names:
                found.setdefault(name, statement)
        return found


def _find(target: str) -> tuple[_Module, ast.AST] | None:
    module_name, _, name = current_name(target).rpartition(".")
    module = _load(module_name) if module_name else None
    if module is None:
        return None
    match module.definitions.get(name):
        case ast.ClassDef() | ast.FunctionDef() as statement:
            return module, statement
        case ast.Assign(value=value):
            return module, value
        case ast.ImportFrom() as statement:
            imported = next(a.name for a in statement.names if (a.asname or a.name) == name)
            return _find(f"{_absolute(module, statement)}.{imported}")
    return None


def _absolute(module: _Module, statement: ast.ImportFrom) -> str:
    if statement.level == 0:
        return statement.module or ""
    package = module.name.split(".")
    up = statement.level - (1 if module.path.name == "__init__.py" else 0)
    parts = package[: len(package) - up] + ([statement.module] if statement.module else [])
    return ".".join(parts)


@cache
def _load(name: str) -> _Module | None:
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin and spec.origin.endswith(".py"):
        paths = [Path(spec.origin)]
    else:
        bases = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
        paths = [path for base in bases for path in (base / "__init__.py", base.with_suffix(".py"))]
    for path in paths:
        if path.is_file():
            try:
                return _Module(name, path, tuple(ast.parse(path.read_bytes()).body))
            except (SyntaxError, ValueError):  # importing it says it better
                return None
    return None


def _of_class(module: _Module, node: ast.ClassDef) -> Signature:
    if _is_declared(module, node):
        return _of_declared(module, node)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            signature = _of_function(module, statement, skip=1)
            if signature.open:  # **keywords go to the base: what it takes is accepted here too
                inherited = _of_bases(module, node)
                signature.parameters = inherited.parameters | signature.parameters
                signature.open = inherited.open
            return signature
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(_fields(module, node))
    return _of_bases(module, node)


def _of_declared(module: _Module, node: ast.ClassDef) -> Signature:
    """A class that writes `__init__` itself takes its fields by `**keywords` of it only."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            signature = _of_function(module, statement, skip=1)
            if signature.open:
                fields = _declared_fields(module, node)
                return Signature(fields | signature.parameters)
            return signature
    return Signature(_declared_fields(module, node))


def _is_declared(module: _Module, node: ast.ClassDef) -> bool:
    """Whether a class declares its constructor's arguments as fields, as optimizers do."""
    decorators = map(ast.unparse, node.decorator_list)
    if any("dataclass_transform" in decorator for decorator in decorators):
        return True
    return any(_is_declared(*base) for base in _bases(module, node))


def _bases(module: _Module, node: ast.ClassDef) -> Iterator[tuple[_Module, ast.ClassDef]]:
    """The base classes whose source can be found."""
    for base in node.bases:
        match _find(f"{module.name}.{ast.unparse(base)}"):
            case (where, ast.ClassDef() as found):
                yield where, found


def _declared_fields(module: _Module, node: ast.ClassDef) -> dict[str, Parameter]:
    """The fields that a class declares, in the order of the constructor: by keyword only last."""
    positional, keyword_only = _split_fields(module, node)
    return positional | keyword_only


def _split_fields(
    module: _Module, node: ast.ClassDef
) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """The fields of a class and its bases, those of the bases first: positional, keyword-only."""
    positional: dict[str, Parameter] = {}
    keyword_only: dict[str, Parameter] = {}
    for base in _bases(module, node):
        if _is_declared(*base):
            inherited = _split_fields(*base)
            positional |= inherited[0]
            keyword_only |= inherited[1]
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                if name.startswith("_") or "ClassVar" in ast.unparse(annotation):
                    continue
                parameter = Parameter(_evaluate(module, annotation), value is None)
                is_keyword_only = value is not None and "kw_only=True" in ast.unparse(value)
                (keyword_only if is_keyword_only else positional)[name] = parameter
    return positional, keyword_only


def _of_bases(module: _Module, node: ast.ClassDef) -> Signature:
    for base in _bases(module, node):
        return _of_class(*base)
    return Signature(open=bool(node.bases))


def _of_function(module: _Module, node: ast.FunctionDef, skip: int = 0) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = {
        arg.arg: Parameter(_evaluate(module, arg.annotation), index < required)
        for index, arg in enumerate(positional)
    }
    for name in [arg.arg for arg in positional[:skip]]:
        del parameters[name]
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[arg.arg] = Parameter(_evaluate(module, arg.annotation), default is None)
    if arguments.kwarg is None:
        return Signature(parameters)
    unpacked = _unpack(module, arguments.kwarg.annotation)
    if unpacked is None:
        return Signature(parameters, open=True)
    return Signature(parameters | unpacked)


def _unpack(module: _Module, annotation: ast.expr | None) -> dict[str, Parameter] | None:
    """The keys of `**keywords: Unpack[SomeTypedDict]`."""
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Unpack"):
        return None
    found = _find(f"{module.name}.{ast.unparse(annotation.slice)}")
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    return {
        name: Parameter(parameter.annotation, required=False)
        for name, parameter in _fields(*found).items()  # type: ignore[arg-type]
    }


def _fields(module: _Module, node: ast.ClassDef) -> dict[str, Parameter]:
    """The fields of a dataclass or a TypedDict, those of its bases first."""
    fields: dict[str, Parameter] = {}
    for base in _bases(module, node):
        fields |= _fields(*base)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = _evaluate(module, statement.annotation)
            fields[statement.target.id] = Parameter(annotation, statement.value is None)
    return fields


def _evaluate(module: _Module, annotation: ast.expr | None) -> Any:
    """The annotation as a type; Any if it is not built from plain types."""
    if annotation is None:
        return Any
    try:
        return eval(
            compile(ast.Expression(annotation), str(module.path), "eval"), {}, _Names(module)
        )
    except Exception:  # a type of another library: do not judge it
        return Any


class _Names(dict[str, Any]):
    """The names of an annotation: plain types, those of `typing`, and aliases of the module."""

    def __init__(self, module: _Module) -> None:
        self.module = module

    def __missing__(self, name: str) -> Any:
        if name in ("float", "int", "bool", "str", "tuple", "list", "dict"):
            return getattr(builtins, name)
        if name in ("Annotated", "Any", "Literal", "Optional", "Union", "Sequence", "Mapping"):
            return getattr(typing, name)
        found = _find(f"{self.module.name}.{name}")
        if found is None or not isinstance(found[1], ast.expr):
            raise NameError(name)
        return _evaluate(*found)  # type: ignore[arg-type]
