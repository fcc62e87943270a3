"""Checkpoints that pickle a whole network: its tensors come out, though none of its classes exists and none is run."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headway.convert import read_upstream
from headway.errors import CheckpointError

# A package as the authors had it; it exists only inside the process that saves.
PACKAGE = """
    import torch
    from torch import nn

    class Conv(nn.Module):
        def __init__(self, c1, c2):
            super().__init__()
            self.conv = nn.Conv2d(c1, c2, 3, bias=False)
            self.bn = nn.BatchNorm2d(c2)
            self.act = nn.SiLU()

    class Implicit(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.implicit = nn.Parameter(torch.randn(1, channels, 1, 1))

    class Detect(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("anchors", torch.rand(2, 3, 2))
            self.register_buffer("passing", torch.rand(2), persistent=False)
            self.register_buffer("absent", None)
            self.register_parameter("nothing", None)
            self.m = nn.ModuleList(nn.Conv2d(4, 6, 1) for _ in range(2))
            self.ia = nn.ModuleList([Implicit(4), Implicit(4)])
            self.stride = torch.tensor([8.0, 16.0])
            self.forward = self.other

        def other(self, x):
            return x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.yaml = {"nc": 1, "anchors": [[1, 2]]}
            self.shared = Conv(4, 4)
            self.model = nn.Sequential(Conv(3, 4), nn.Sequential(self.shared, self.shared), Detect())
            self.names = ["cell"]
"""
SAVE = """
    import sys, torch
    sys.path.insert(0, sys.argv[1])
    from vanished.yolo import Model

    model = Model()
    for kind in ("float32", "float16"):
        model = model.to(getattr(torch, kind))
        for wrap in ("plain", "parallel"):
            content = torch.nn.DataParallel(model) if wrap == "parallel" else model
            torch.save({"epoch": -1, "model": content, "optimizer": None}, f"{sys.argv[1]}/{kind}.{wrap}.pt")
        torch.save(model, f"{sys.argv[1]}/{kind}.top.pt")
        torch.save(model.state_dict(), f"{sys.argv[1]}/{kind}.state.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    package = path / "vanished"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "yolo.py").write_text(textwrap.dedent(PACKAGE))
    subprocess.run([sys.executable, "-c", textwrap.dedent(SAVE), str(path)], check=True)
    return path


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("wrap", ["plain", "parallel", "top"])
def test_a_pickled_network_gives_its_state_dict(folder, kind, wrap):
    expected = torch.load(folder / f"{kind}.state.pt", weights_only=True)
    start = "module." if wrap == "parallel" else ""
    found = read_upstream(folder / f"{kind}.{wrap}.pt")
    assert set(found) == {start + name for name in expected}
    assert "model.2.passing" not in expected
    for name, value in expected.items():
        assert torch.equal(found[start + name], value), name
        assert found[start + name].dtype == value.dtype == (torch.int64 if "num_" in name else getattr(torch, kind))


def test_nothing_of_it_was_imported(folder):
    read_upstream(folder / "float32.plain.pt")
    assert "vanished" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        torch.load(folder / "float32.plain.pt", weights_only=False)


# ---------------------------------------------------------------------------------------------------------- hostile
class Hostile:
    """Makes a folder when unpickled by anything that obeys pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


class Evaluated:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def as_attribute(thing: object) -> nn.Module:
    model = network()
    model.thing = thing
    return model


def as_parameter(thing: object) -> nn.Module:
    model = network()
    model[0]._parameters["weight"] = thing
    return model


def as_child(thing: object) -> nn.Module:
    model = network()
    model._modules["0"] = thing
    return model


def inside_itself() -> nn.Module:
    model = network()
    model._modules["2"] = model
    return model


def doubled(times: int) -> nn.Module:
    """2 ** times paths to one convolution."""
    model: nn.Module = nn.Conv2d(3, 4, 1)
    for _ in range(times):
        model = nn.Sequential(model, model)
    return model


def with_state(**state: object) -> nn.Module:
    model = network()
    model.__dict__.update(state)
    return model


CASES = {
    "parameter": (lambda m: as_parameter(Hostile(m)), "'0.weight' is a mkdir where a tensor or a module"),
    "child": (lambda m: as_child(Hostile(m)), "'0' is a mkdir where a tensor or a module"),
    "text as a parameter": (lambda _: as_parameter("text"), "'0.weight' is a str where a tensor or a module"),
    "text as a child": (lambda _: as_child("text"), "'0' is a str where a tensor or a module"),
    "itself": (lambda _: inside_itself(), "modules nested deeper than 100 at '2.2.2.2"),
    "too many paths": (lambda _: doubled(30), "more than 20000 modules and tensors"),
    "a list for buffers": (lambda _: with_state(_buffers=[1]), "is refused: 'list' object has no attribute 'items'"),
    "a number for names": (lambda _: with_state(_non_persistent_buffers_set=1, _buffers={"a": 1}), "is refused: "),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_network_is_refused_and_nothing_is_run(tmp_path, case, protocol):
    make, reason = CASES[case]
    path = tmp_path / "a.pt"
    torch.save({"model": make(tmp_path / "ran")}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_upstream(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "ran").exists()
    if "mkdir" in reason:
        torch.load(path, weights_only=False)
        assert (tmp_path / "ran").exists(), "the marker works"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_in_an_attribute_of_a_network_is_not_made(tmp_path, protocol):
    """No state dict has the attribute, so its tensors are read; the names in it stay inert."""
    path, model = tmp_path / "a.pt", network()
    for thing in (Hostile(tmp_path / "ran"), Evaluated()):
        model.thing = thing
        torch.save({"model": model}, path, pickle_protocol=protocol)
        assert set(read_upstream(path)) == set(network().state_dict())
    assert not (tmp_path / "ran").exists()


def test_a_call_in_place_of_the_network_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": Hostile(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_upstream(path)
    assert not (tmp_path / "ran").exists()


def test_shared_modules_up_to_a_limit_are_listed_under_every_name(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(doubled(3), path)
    found = read_upstream(path)
    assert len(found) == 16
    assert found["0.1.0.weight"].data_ptr() == found["1.1.1.weight"].data_ptr()
    assert isinstance(found["0.0.0.bias"], Tensor)
