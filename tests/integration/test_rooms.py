"""The rooms of the package: which folder may import from which, computed from the imports."""

import ast
from graphlib import TopologicalSorter

from tests.helpers.places import REPO

FLOORS = (
    {"cli"},
    {"train", "peers"},
    {"eval", "app"},
    {"score"},
    {"rollout", "plan"},
    {"policies", "data"},
    {"tasks", "video"},
    {"prompts", "rewards"},
    {"config", "utils"},
)
"""From the top; a room imports from floors below its own only (docs/architecture.md)."""

FILES_A_FOLDER = 15
"""Modules that one folder may hold: about a dozen, its `__init__` and one to grow."""


def modules() -> dict[str, ast.Module]:
    """Every module of the product with its syntax tree."""
    found = {}
    for package in ("thinker", "rewards"):
        for path in sorted((REPO / package).rglob("*.py")):
            parts = path.relative_to(REPO).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the product that one of them imports, wherever in the file."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where a name comes from"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {t if t in MODULES else str(node.module) for t in targets}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {target for target in found if target in MODULES} - {name}


def room(name: str) -> str:
    """The folder (or file) below the package: "train" of `thinker.train.grpo.trainer`."""
    package, *rest = name.split(".")
    return "rewards" if package == "rewards" else (rest or ["thinker"])[0]


def test_rooms_import_only_from_floors_below():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{name} imports {target}"
        for name in MODULES
        for target in imports(name)
        if "thinker" != room(name) != room(target) and floor[room(target)] <= floor[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_floor_is_needed():
    """Each room stands as low as its imports allow: one floor above the highest that it needs, so
    the picture in docs/architecture.md is the one that the imports draw."""
    needs = {
        name: {room(t) for m in MODULES if room(m) == name for t in imports(m)} - {name}
        for names in FLOORS
        for name in names
    }
    height: dict[str, int] = {}
    for name in TopologicalSorter(needs).static_order():
        height[name] = 1 + max((height[other] for other in needs[name]), default=0)
    order = [name for names in reversed(FLOORS) for name in sorted(names)]
    heights = [height[name] for name in order]
    assert heights == sorted(heights), dict(zip(order, heights, strict=True))


def test_no_two_modules_import_each_other():
    """Also within a room; a package's `__init__` only hands on names of its modules."""
    graph = {
        name: {target for target in imports(name) if not name.startswith(f"{target}.")}
        for name in MODULES
    }
    assert list(TopologicalSorter(graph).static_order())


def test_no_folder_is_crowded():
    crowded = {}
    for package in ("thinker", "rewards"):
        for folder in [REPO / package, *(REPO / package).rglob("*/")]:
            count = len(list(folder.glob("*.py")))
            if count > FILES_A_FOLDER:
                crowded[str(folder.relative_to(REPO))] = count
    assert not crowded


def test_rewards_stand_alone():
    """`rewards` is used without the rest of the package: it imports nothing of it."""
    assert not [n for n in MODULES if room(n) == "rewards" for t in imports(n) if "thinker" in t]


def test_no_test_imports_another():
    wrong = []
    for path in (REPO / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [
                f"{path.name}: {n}" for n in names if n.rpartition(".")[2].startswith("test_")
            ]
    assert not wrong


def dataclasses_of(module: ast.Module) -> list[ast.ClassDef]:
    """Its dataclasses, wherever they stand."""
    classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    return [c for c in classes if any("dataclass" in ast.unparse(d) for d in c.decorator_list)]


def test_every_field_of_a_dataclass_has_its_docstring_under_itself():
    wrong = []
    for name, module in MODULES.items():
        for definition in dataclasses_of(module):
            body = definition.body
            for node, below in zip(body, [*body[1:], None], strict=True):
                if not isinstance(node, ast.AnnAssign):
                    continue
                text = getattr(getattr(below, "value", None), "value", None)
                if not (isinstance(text, str) and text.rstrip().endswith((".", ")"))):
                    wrong.append(f"{name}: {definition.name}.{ast.unparse(node.target)}")
    assert not wrong, "\n".join(wrong)
