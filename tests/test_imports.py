"""Who may import whom (the contracts stand in pyproject.toml), what importing costs, and strict types in the core."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ["types", "boxes", "assign", "losses", "targets", "select", "registry", "priors", "errors", "train/config"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_layers():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    result = run("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts)} kept, 0 broken" in result.stdout


def imported(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the module is imported: none of functions, none for type checkers."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            waiting += ast.iter_child_nodes(node)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Module -> the package's modules that it names in its imports."""
    files = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in imported(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(files)
                continue
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            inner = {f"{source}.{alias.name}" for alias in node.names} & set(files)
            graph[name] |= inner or ({source} & set(files))
    return graph


def test_nothing_is_imported_in_a_circle():
    graph = import_graph(ROOT / "src" / "headway")
    assert {"headway.types", "headway.select"} <= graph["headway.detector"]
    assert "headway.models.dense" in graph["headway.models"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_is_seen(tmp_path):
    """Through a package's own file, by name and relatively; not through a function or for a type checker."""
    root = tmp_path / "own"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text("from . import b\n")
    (root / "b.py").write_text("def f():\n    from . import a\nif TYPE_CHECKING:\n    from .a import x\n")
    TopologicalSorter(import_graph(root)).prepare()
    (root / "b.py").write_text("try:\n    import own.a\nexcept ImportError:\n    pass\n")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(root)).prepare()


@pytest.mark.parametrize("module", ["headway", "headway.cli"])
def test_importing_it_does_not_import_torch(module):
    result = run("-c", f"import sys, {module}; print(sorted({{'torch', 'timm', 'torchvision'}} & set(sys.modules)))")
    assert result.stdout.strip() == "[]", result.stderr


def test_strict_types_in_the_core():
    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert all((ROOT / name).exists() for name in files)
    assert {f"src/headway/{name}.py" for name in CORE} <= set(files)
    result = run("-m", "mypy")
    assert result.returncode == 0, result.stdout + result.stderr
