"""What a user installs: the wheel holds the package, its data and its licences alone, and works from elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "headway"
BUILD = """
import sys
from setuptools import build_meta

out = sys.argv[1]
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Wheel and source archive, built without a network from a copy of what the archive may hold."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "tests", "benchmarks"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "golden")
        )
    subprocess.run([sys.executable, "-c", BUILD, out], cwd=source, check=True, capture_output=True)
    return out


def test_the_wheel_holds_the_package_its_data_and_its_licences(dist):
    (wheel,) = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    package = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"headway/py.typed", "headway/__init__.pyi", "headway/assets/demo.safetensors"} <= package
    about = f"{wheel.name.split('-py3')[0]}.dist-info"
    assert names - package == {
        f"{about}/{name}"
        for name in (
            "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE", "licenses/NOTICE"
        )
    }  # fmt: skip
    assert package <= names


def test_the_source_archive_holds_what_builds_it(dist):
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "src/headway/py.typed"} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"src"}


def test_an_installed_wheel_works(dist, tmp_path):
    """From another folder, and not from this one."""
    (wheel,) = dist.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import headway; from headway.demo import ASSETS, DATA; model = headway.load(ASSETS / 'demo.safetensors'); "
        "print(headway.__file__, len(model.predict(next((DATA / 'val').iterdir()), threshold=0.3)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, found = done.stdout.split()
    assert Path(file).is_relative_to(site)
    assert int(found) > 0
    script = subprocess.run(
        [sys.executable, site / "bin" / "headway", "--version"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert script.stdout.startswith("headway ")
