"""The layout: imports point down and have no cycles, files and functions are short, and names are specific."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipeline", "data_prep", "slurm", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FILES = 300, 70, 13  # files in a folder, including its __init__.py

# From the bottom up. A module belongs to the longest prefix of its name in this list. It may import modules of its own
# floor or of floors below, except that `pipeline.data` and `pipeline.model` may not import each other.
FLOORS = (
    ("data_prep.dataset",),
    ("data_prep.options", "data_prep.orphans", "data_prep.progress", "data_prep.workers"),
    ("data_prep.text",),
    ("data_prep.plan", "data_prep.workspace"),
    ("data_prep.passes",),
    ("data_prep.publish",),
    ("data_prep.prepare",),
    ("pipeline.version",),
    ("pipeline.characters", "pipeline.config", "pipeline.process", "pipeline.train.cluster.signals"),
    ("pipeline.model.backend",),
    ("pipeline.data", "pipeline.model"),
    ("pipeline.model.formats",),
    ("pipeline.model.elmo",),
    ("pipeline.train.cluster",),
    ("pipeline.train.outcome",),
    ("pipeline.train.step",),
    ("pipeline.train.run_dir",),
    ("pipeline.train",),
    ("pipeline.budget",),
    ("pipeline.apply.load",),
    ("pipeline.apply.embed", "pipeline.apply.watch"),
    ("pipeline.apply",),
    ("pipeline.integrations",),
    ("pipeline.finetune",),
    ("pipeline.tasks.examples.types",),
    ("pipeline.tasks.examples", "pipeline.tasks.metrics"),
    ("pipeline.tasks.networks.layers",),
    ("pipeline.tasks.networks",),
    ("pipeline.tasks.cove.encoder", "pipeline.tasks.cove.model"),
    ("pipeline.tasks.layer_encoder",),
    ("pipeline.tasks.layer_cache",),
    ("pipeline.tasks.training",),
    ("pipeline.tasks",),
    ("pipeline.cli",),
    ("slurm",),
    ("benchmarks",),
)
STRANGERS = {"pipeline.data", "pipeline.model"}
PACKAGES = {"pipeline", "data_prep"}  # their __init__.py


def floor_of(module: str) -> tuple[int, str] | None:
    """Return (floor, prefix in FLOORS) of a module, None where FLOORS has no place for it."""
    places = [(floor, name) for floor, names in enumerate(FLOORS) for name in names]
    found = [(len(name), floor, name) for floor, name in places if module == name or module.startswith(f"{name}.")]
    return max(found)[1:] if found else None


def modules_imported(source: str, package: str, modules: set[str]) -> set[str]:
    """Return those of `modules` that a file of `package` imports anywhere, also in functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            found |= {name} if name else set()
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parts[:-1])


MODULES = set(map(module_of, FILES))
IMPORTS = {
    module_of(path): modules_imported(path.read_text(encoding="utf-8"), package_of(path), MODULES) for path in FILES
}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module in PACKAGES:
        return
    here = floor_of(module)
    assert here is not None, f"{module} stands on no floor: give it a place in FLOORS"
    for other in IMPORTS[module] - PACKAGES - {module}:
        there = floor_of(other)
        assert there is not None and there[0] <= here[0], f"{module} imports {other}, which does not stand below it"
        assert {here[1], there[1]} != STRANGERS, (
            f"{module} imports {other}, but data and model know nothing of each other"
        )


def test_no_file_imports_itself_through_others() -> None:
    left = {module: imported - {module} for module, imported in IMPORTS.items()}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in free}
    assert not left, f"these files import each other in a circle, or import those that do: {sorted(left)}"


@pytest.mark.parametrize(
    ("source", "package", "modules"),
    [
        ("import pipeline.train.run", "pipeline.data", {"pipeline.train.run"}),
        ("from pipeline import __version__, train", "pipeline.data", {"pipeline", "pipeline.train"}),
        ("def f():\n    from pipeline.train import run", "pipeline.train", {"pipeline.train.run"}),
        ("from ..train import run", "pipeline.data", {"pipeline.train.run"}),
        ("from ..train.run import pretrain\nimport torch", "pipeline.data", {"pipeline.train.run"}),
        ("if TYPE_CHECKING:\n    from pipeline.train.run import run", "pipeline.data", {"pipeline.train.run"}),
    ],
)
def test_every_form_of_import_is_found(source: str, package: str, modules: set[str]) -> None:
    assert modules_imported(source, package, {"pipeline", "pipeline.train", "pipeline.train.run"}) == modules


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=module_of)
def test_no_test_module_is_imported(path: Path) -> None:
    """What several tests need is in a module of its own, so that importing it does not load the tests."""
    imported = re.findall(r"tests(?:\.\w+)*(?:\.| import )test_\w+", path.read_text(encoding="utf-8"))
    assert not imported, f"{module_of(path)} imports {imported}"


def test_a_folder_holds_few_files() -> None:
    folders = {path.parent for path in FILES}
    many = {
        str(f.relative_to(ROOT)): len(list(f.glob("*.py"))) for f in folders if len(list(f.glob("*.py"))) > MAX_FILES
    }
    assert not many, f"more than {MAX_FILES} files: {many}"


def test_no_module_has_a_vague_name() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    found = [
        module_of(path)
        for path in FILES
        if drawers & set(path.stem.split("_")) | drawers & set(path.relative_to(ROOT).parts)
    ]
    assert not found


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {name: n for name, n in lengths.items() if n > MAX_FILE_LINES}
    assert not long, f"longer than {MAX_FILE_LINES} lines: {long}"


def test_functions_are_short() -> None:
    lengths = {
        f"{module_of(path)}.{f.name}": (f.end_lineno or f.lineno) - f.lineno + 1
        for path in FILES
        for f in functions(path)
    }
    long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not long, f"longer than {MAX_FUNCTION_LINES} lines: {long}"


def test_signatures_are_typed() -> None:
    untyped = [
        f"{module_of(path)}.{f.name}"
        for path in FILES
        for f in functions(path)
        if f.returns is None or any(a.annotation is None for a in _arguments(f) if a.arg not in ("self", "cls"))
    ]
    assert not untyped


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
