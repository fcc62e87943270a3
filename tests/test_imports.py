"""Who may import whom (the contracts stand in pyproject.toml), what importing costs, and strict types in the core."""

import subprocess
import sys
import tomllib
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
