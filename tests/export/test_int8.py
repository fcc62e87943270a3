"""Files that compute in 8 bits: as good as in float, or refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import headway
from headway.cli import main
from headway.data.formats.any_format import open_splits
from headway.demo import DATA
from headway.errors import HeadwayError
from headway.export import quantize as int8
from headway.export.openvino import from_onnx
from headway.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
import grid

DEMO = Path(headway.__file__).parent / "assets" / "demo.safetensors"
SIZE = (192, 256)


@pytest.fixture(scope="module")
def splits():
    return {name: data.subset(list(range(8)), name) for name, data in open_splits(DATA).items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory, splits):
    """(the float file, the int8 file, its report) of the shipped detector."""
    folder = tmp_path_factory.mktemp("int8")
    path, report = headway.export(DEMO, folder / "int8.onnx", size=SIZE, int8=splits, verify=0)
    assert [file.name for file in folder.iterdir()] == ["int8.onnx"]
    return path, report


def test_it_is_as_good_and_a_third_as_large(both, splits):
    path, report = both
    assert report["precision"] == Runtime(path).info["precision"] == "int8"
    assert report["ap"] > 0.4
    assert report["ap_int8"] == pytest.approx(report["ap"], abs=0.03)
    assert pytest.approx(report["ap_int8"], abs=1e-6) == headway.evaluate(path, splits).AP
    count = sum(parameter.numel() for parameter in headway.load(DEMO).parameters())
    assert path.stat().st_size < 0.4 * 4 * count


def test_the_predictors_stay_float(both):
    model = onnx.load(both[0])
    floats = {
        tensor.name.split(".weight")[0] for tensor in model.graph.initializer
        if tensor.name.endswith(".weight") and tensor.data_type == onnx.TensorProto.FLOAT
    }  # fmt: skip
    assert {"model.head.cls", "model.head.box", "model.head.centerness"} <= floats
    assert any(name.endswith(".spatial.offset") for name in floats)
    assert "model.backbone.body.layer1.0.conv1" not in floats


def test_linear_layers_count_as_weights(tmp_path):
    """All of a DETR but its predictors; products of two activations, as in attention, stay float."""
    model = grid.prepared(grid.small("toy/project/detr"))
    path = headway.export(model, tmp_path / "float.onnx", size=grid.SIZE, verify=0).path
    file = onnx.load(path)
    int8._fold_transposes(file)
    chosen = int8._weighted_nodes(file, ["model.head.cls.", "model.head.box."])
    linear = [
        n
        for n, m in model.named_modules()
        if type(m).__name__ in ("Linear", "Conv2d", "NonDynamicallyQuantizableLinear")
    ]
    assert len(chosen) >= len([n for n in linear if not n.startswith(("head.cls", "head.box"))]) - 2
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    turned = tmp_path / "turned.onnx"
    turned.write_bytes(file.SerializeToString())
    one, other = Runtime(path)(pixels), Runtime(turned)(pixels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_depthwise_convolutions_are_told_apart_and_may_stay_float(tmp_path, splits):
    """Of two 3x3 convolutions of PAFNet-Lite's kind, one with a group for each channel."""
    torch.manual_seed(0)
    model = headway.create_model("toy/lite_upsample/pafnet_lite", num_classes=3)
    path = headway.export(model, tmp_path / "float.onnx", size=(64, 96), verify=0).path
    deep = {name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1}
    assert len(int8._depthwise_nodes(onnx.load(path))) == len(deep) > 0
    assert int8.quantize(path, tmp_path / "all.onnx", splits["train"], pictures=2)
    assert int8.quantize(path, tmp_path / "few.onnx", splits["train"], pictures=2, depthwise=False)
    nodes = [
        sum(n.op_type == "QuantizeLinear" for n in onnx.load(tmp_path / f"{f}.onnx").graph.node) for f in ("all", "few")
    ]
    assert nodes[1] < nodes[0]


def test_a_file_that_loses_ap_is_refused_and_kept(both, splits, tmp_path, monkeypatch):
    def spoiled(file, out, data, *, pictures, depthwise):
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if tensor.name.startswith("model.head.cls") and "weight" in tensor.name:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
        out.write_bytes(model.SerializeToString())
        tried.append(depthwise)
        return True

    tried: list[bool] = []
    monkeypatch.setattr(int8, "quantize", spoiled)
    file = tmp_path / "m.onnx.rejected"
    file.write_bytes(both[0].read_bytes())
    with pytest.raises(HeadwayError, match=r"takes AP from 0\.\d+ to .*, a drop above 0\.01.*the file is .*rejected"):
        int8.to_int8(file, tmp_path / "none", splits["train"], splits["val"], 4, 0.01)
    assert tried == [True, False]  # again with depthwise convolutions in float
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_openvino_computes_in_8_bits_too(both, splits, tmp_path, monkeypatch):
    """From the same int8 graph: the float file gives way to it, with its weights."""
    file, between = tmp_path / "m.xml.rejected", tmp_path / "graph.onnx"
    between.write_bytes(both[0].read_bytes())
    from_onnx(between, file)
    monkeypatch.setattr(int8, "quantize", lambda file, out, data, **options: out.write_bytes(file.read_bytes()) < 0)
    report = int8.to_int8(file, between, splits["train"], splits["val"], 4, 0.01)
    assert report["ap_int8"] == pytest.approx(both[1]["ap_int8"], abs=0.03)
    assert report["ap_int8"] > 0.4
    assert file.with_name("m.bin.rejected").stat().st_size < 0.4 * 4 * sum(
        parameter.numel() for parameter in headway.load(DEMO).parameters()
    )
    assert Runtime(file).info["precision"] == "int8"


def test_what_cannot_be_is_told_before_the_export(tmp_path, splits, capsys):
    other = {"train": replace(splits["train"], class_names=("a", "b", "c"))}
    for options, message in (
        ({"nms": False}, "export it with suppression"),
        ({"calibrate": 0}, "calibrate must be"),
        ({"max_drop": -1}, "max_drop must be"),
        ({"int8": other}, "which the model does not know"),
        ({"int8": {"train": splits["train"].subset([], "train")}}, "'train' is empty"),
    ):
        with pytest.raises(HeadwayError, match=message):
            headway.export(DEMO, tmp_path / "m.onnx", **{"int8": splits, **options})
    assert main(["export", str(DEMO), "--out", str(tmp_path / "m.onnx"), "--int8"]) == 2
    assert "--int8 needs --data FOLDER" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_report_is_json(both):
    assert json.loads(json.dumps(both[1]))["ap_int8"] == both[1]["ap_int8"]
