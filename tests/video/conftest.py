"""A small model, made once, on one thread; tests treat the file as read-only."""

from pathlib import Path

import pytest
import torch

import headway


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small = {"class_names": ["red", "white"], "input_size": (48, 64), "fpn.channels": 32}
    model = headway.create_model("resnet10t/fpn/atss", **small)
    return headway.save(model, tmp_path_factory.mktemp("checkpoint") / "small.safetensors")
