"""The house keeps its shape: imports point down, files and functions stay short, names say what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("data_prep/**/*.py")])
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 70

F1 = {"data_prep", "pipeline.config", "pipeline.command", "pipeline.command_config", "pipeline.finetune_config",
      "pipeline.read_config", "pipeline.watch_config", "pipeline.characters", "pipeline.process",
      "pipeline.signals"}  # fmt: skip
F2 = {"pipeline.data", "pipeline.model"}
MAY_IMPORT = {
    "data_prep": set(),
    "pipeline.config": {"data_prep"},
    "pipeline.read_config": {"pipeline.config"},
    "pipeline.finetune_config": {"pipeline.config"},
    "pipeline.command": {"pipeline.read_config"},
    "pipeline.command_config": {"pipeline.config"},
    "pipeline.watch_config": {"pipeline.config"},
    "pipeline.characters": set(),
    "pipeline.process": set(),
    "pipeline.signals": set(),
    "pipeline.data": F1,
    "pipeline.model": F1,
    "pipeline.train": F1 | F2,
    "pipeline.apply": F1 | F2 | {"pipeline.train"},
    "pipeline.cli": F1 | F2 | {"pipeline.train", "pipeline.apply"},
}


def rooms_imported(source: str, package: str) -> set[str]:
    """Rooms (`data_prep` or `pipeline.X`) that a module of `package` imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "pipeline" else {module}
    return {room(name) for name in names if name.split(".")[0] in ("pipeline", "data_prep")} - {"pipeline.__version__"}


def room(module: str) -> str:
    return "data_prep" if module.split(".")[0] == "data_prep" else ".".join(module.split(".")[:2])


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", PRODUCT, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module == "pipeline.__init__":
        allowed, here = set(), "pipeline"
    else:
        here = room(module)
        assert here in MAY_IMPORT, f"{module} stands on no floor: give it a place in MAY_IMPORT"
        allowed = MAY_IMPORT[here] | {here}
    above = rooms_imported(path.read_text(encoding="utf-8"), module.rpartition(".")[0]) - allowed
    assert not above, f"{module} imports {sorted(above)}, which does not stand below it"


@pytest.mark.parametrize(
    ("source", "package", "rooms"),
    [
        ("import pipeline.train.run", "pipeline.data", {"pipeline.train"}),
        ("from pipeline import __version__, train", "pipeline.data", {"pipeline.train"}),
        ("def f():\n    from pipeline.apply import embed", "pipeline.train", {"pipeline.apply"}),
        ("from ..train import run", "pipeline.data", {"pipeline.train"}),
        ("from .lanes import TrainLanes", "pipeline.data", {"pipeline.data"}),
        ("from data_prep.shards import Split\nimport torch", "pipeline.data", {"data_prep"}),
    ],
)
def test_every_way_to_import_is_seen(source: str, package: str, rooms: set[str]) -> None:
    assert rooms_imported(source, package) == rooms


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    found = [
        module_of(path)
        for path in PRODUCT
        if drawers & set(path.stem.split("_")) | drawers & set(path.relative_to(ROOT).parts)
    ]
    assert not found


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in PRODUCT}
    long = {name: n for name, n in lengths.items() if n > MAX_FILE_LINES}
    assert not long, f"longer than {MAX_FILE_LINES} lines: {long}"


def test_functions_are_short() -> None:
    lengths = {
        f"{module_of(path)}.{f.name}": (f.end_lineno or f.lineno) - f.lineno + 1
        for path in PRODUCT
        for f in functions(path)
    }
    long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not long, f"longer than {MAX_FUNCTION_LINES} lines: {long}"


def test_signatures_are_typed() -> None:
    untyped = [
        f"{module_of(path)}.{f.name}"
        for path in PRODUCT
        for f in functions(path)
        if f.returns is None or any(a.annotation is None for a in _arguments(f) if a.arg not in ("self", "cls"))
    ]
    assert not untyped


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
