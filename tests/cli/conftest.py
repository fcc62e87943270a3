"""The command line in real subprocesses, on one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture
def headway(tmp_path: Path) -> Run:
    """`headway("predict", ...)` runs in `tmp_path` and returns code, stdout and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "80"}
    environment.pop("HEADWAY_DEBUG", None)

    def run(*arguments: object, **more: str) -> Result:
        command = [sys.executable, "-m", "headway.cli", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=300, check=False
        )

    return run


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
