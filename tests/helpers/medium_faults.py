"""Faults at every call that reading a medium makes: into the decoder, the resampler, the picture
reader, the frame cache, numpy, torch and the file system.

The calls are found in the syntax trees of our own modules: each function is compiled anew with
every call `f(x)` in it as `_at("module:line:column", f)(x)`, where `_at` counts places and raises
at one of them. `f` and its arguments are those of the code itself.
"""

import ast
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

CODE = ("file", "mp4", "decode", "read", "cache")
"""Modules of thinker/video in which one medium is opened, decoded, resized and cached."""
OUTSIDE = ("read_clip", "fetch", "get_or_read")
"""Functions that only hand their work to the boundary."""


class Faults:
    """The places that were called, in order, and the one that fails."""

    def __init__(self) -> None:
        self.seen: dict[str, None] = {}
        self.place: str | None = None
        self.error: BaseException | None = None

    def at(self, place: str, function: Callable) -> Callable:
        self.seen.setdefault(place)
        if place == self.place and self.error is not None:
            raise self.error
        return function


class _Watched(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        # `super()` looks at the frame that calls it; making a `VideoError` calls nobody.
        if isinstance(node.func, ast.Name) and node.func.id in ("super", "VideoError"):
            return node
        place = ast.Constant(f"{self.name}:{node.lineno}:{node.end_col_offset}")
        at = ast.Name(id="_at", ctx=ast.Load())
        node.func = ast.Call(func=at, args=[place, node.func], keywords=[])
        return node


def _watched_codes(module: ModuleType, name: str) -> dict[str, CodeType]:
    """Of the functions and methods of a module, by their qualified name."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name not in OUTSIDE:
                    inner.body = [_Watched(name).visit(statement) for statement in inner.body]
    found: dict[str, CodeType] = {}

    def walk(code: CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found[constant.co_qualname] = constant
                walk(constant)

    walk(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec", dont_inherit=True))
    return found


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    own = [v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__]
    for value in own:
        for one in [value, *(vars(value).values() if isinstance(value, type) else ())]:
            if isinstance(one, FunctionType) and one.__module__ == module.__name__:
                yield one


@contextmanager
def watched_calls() -> Iterator[Faults]:
    """Within the block all calls of `CODE` are counted, and one may be made to fail."""
    faults, old = Faults(), []
    try:
        for name in CODE:
            module = importlib.import_module(f"thinker.video.{name}")
            codes = _watched_codes(module, name)
            vars(module)["_at"] = faults.at
            for function in _functions(module):
                code = codes.get(function.__qualname__)  # none of what a dataclass writes
                if code is not None and code.co_freevars == function.__code__.co_freevars:
                    old.append((function, function.__code__))
                    function.__code__ = code
        yield faults
    finally:
        for function, code in old:
            function.__code__ = code
