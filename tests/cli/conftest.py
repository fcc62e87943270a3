"""The command line in processes of its own, on one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    """See `fork_server`. It has not seen what tests of the same worker registered or patched."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fork_server.py")],
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    yield process
    # Not by the end of its stdin, which loader workers that other tests forked from this process may hold open.
    process.kill()
    process.wait()


@pytest.fixture
def headway(server: subprocess.Popen[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`headway("predict", ...)` runs in `tmp_path` and returns code, stdout and stderr."""
    assert server.stdin
    assert server.stdout

    def run(*arguments: object, **more: str) -> Result:
        words = [*map(str, arguments)]
        seen = tmp_path_factory.mktemp("seen")
        files = {name: seen / name for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        job = {"arguments": words, "folder": str(tmp_path), "environment": {**_environment(), **more}}
        print(json.dumps(job | {name: str(file) for name, file in files.items()}), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return Result(words, code, *(file.read_text(encoding="utf-8") for file in files.values()))

    return run


@pytest.fixture
def fresh_headway(tmp_path: Path) -> Run:
    """The same in a process that begins with nothing imported."""

    def run(*arguments: object, **more: str) -> Result:
        command = [sys.executable, "-m", "headway.cli", *map(str, arguments)]
        environment = {**_environment(), **more}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


def _environment() -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "80"}
    environment.pop("HEADWAY_DEBUG", None)
    return environment


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Dynamic Head detector of two classes with random weights; treat the file as read-only."""
    import torch

    import headway

    torch.manual_seed(0)
    model = headway.create_model(
        "atss_r18_fpn_dyhead", class_names=["red", "white"], blocks=1, channels=32, input_size=(64, 96)
    )
    return headway.save(model, tmp_path_factory.mktemp("checkpoint") / "small.safetensors")
