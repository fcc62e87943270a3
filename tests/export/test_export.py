"""Every head to ONNX and back: the same detections as the model's, or no file."""

import io
import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import headway
from headway import registry
from headway.cli import main
from headway.data.augment.resize import eval_transform
from headway.data.open_data import open_data
from headway.demo import DATA
from headway.errors import HeadwayError
from headway.evaluate.exported import measure_exported
from headway.evaluate.run import measure
from headway.export import api as export_api
from headway.export.api import files_of
from headway.export.openvino import from_onnx
from headway.export.padding import fix_padding, pads_by_size
from headway.export.support import said, support
from headway.export.verify import compare
from headway.resolve import load_model
from headway.runtime import Found, Runtime

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
import grid

PICTURES = sorted((Path(headway.__file__).parent / "assets" / "bccd-mini" / "val").glob("*.jpg"))[:3]
TOY = "toy/upsample/ttfnet"


def small_detector(path: str) -> headway.Detector:
    """Scores are spread, and half the candidates pass the threshold."""
    model = grid.prepared(grid.small(path, **({} if "rcnn" in path else {"levels": 3} if "fpn" in path else {})))
    found = grid.candidates_of(model, grid.images_of(2))
    by_class = found.scores if found.class_scores is None else found.class_scores
    model.set_card(replace(model.card, input_size=grid.SIZE, score_threshold=float(by_class.median())))
    return model


def perturbed(model):
    """Every bias is off by 0.05."""
    model = deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.05)
    return model


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(model, its file)."""
    model = small_detector(TOY)
    return model, headway.export(model, tmp_path_factory.mktemp("toy") / "toy.onnx", verify=0).path


@pytest.fixture(scope="module")
def runtime(toy):
    return Runtime(toy[1])


# One of each family; what is left out differs from these in its arguments: pafnet and yolov4.
FAMILIES = ("retinanet", "fcos", "reppoints", "efficientdet", "ttfnet", "centernet", "yolor", "detr", "faster_rcnn")
FAMILIES = ["toy/fpn/dyhead/atss", *(grid.natural(head) for head in (*FAMILIES, "deformable_detr"))]
OTHERS = [grid.natural(head) for head in ("cascade_rcnn", "pafnet_lite")]


@pytest.mark.parametrize("path", [*FAMILIES, *(pytest.param(path, marks=pytest.mark.slow) for path in OTHERS)])
def test_a_file_finds_what_its_model_finds(path, tmp_path):
    """The shipped pictures in both orientations, two in a run, though the graph was made with another shape."""
    model = small_detector(path)
    file, report = headway.export(model, tmp_path / "m.onnx")
    print(report)
    assert report["pictures"] == 4
    assert report["detections"] >= 8
    assert report["batch"] == "dynamic"
    from_onnx(file, tmp_path / "m.xml")
    in_openvino = compare(tmp_path / "m.xml", model, 4)
    print(in_openvino)
    assert in_openvino["detections"] == report["detections"]
    size = Runtime(tmp_path / "m.xml").size
    assert support()[path.split("/")[-1]].items() >= {"onnx": said(report), "openvino": said({"size": size})}.items()
    for suffix in ("onnx", "xml"):
        with pytest.raises(HeadwayError, match="does not find what its model finds"):
            compare(tmp_path / f"m.{suffix}", perturbed(model), 4)


ALIKE = {"pafnet": "ttfnet", "yolov4": "yolor"}  # the same class with other arguments


def is_ours(head: str) -> bool:
    """No head that another test has registered."""
    return registry.find_part("head", head).build.__module__.startswith("headway.")


def test_the_table_of_support_has_every_head():
    assert list(support()) == [head for head in headway.list_parts("head") if is_ours(head)]
    for head, other in ALIKE.items():
        assert support()[head] == support()[other]
    assert {path.split("/")[-1] for path in (*FAMILIES, *OTHERS)} == support().keys() - ALIKE.keys()


@pytest.mark.parametrize("path", ["toy/fpn/dyhead/atss", *(grid.natural(head) for head in ("ttfnet", "faster_rcnn"))])
def test_a_program_of_torch_export_finds_what_its_model_finds(path, tmp_path):
    model = small_detector(path)
    file, report = headway.export(model, tmp_path / "m.pt2")
    assert report["detections"] >= 8
    assert said(report) == support()[path.split("/")[-1]]["pt2"]
    with pytest.raises(HeadwayError, match="does not find what its model finds"):
        compare(file, perturbed(model), 4)
    with pytest.raises(HeadwayError, match=r"torch\.export\.load"):  # which unpickles
        headway.load(file)


@pytest.fixture(scope="module")
def in_openvino(toy, tmp_path_factory):
    """The toy's .xml file, with its .bin file beside it."""
    model, _ = toy
    path, report = headway.export(model, tmp_path_factory.mktemp("openvino") / "toy.xml")
    assert report["detections"] >= 8
    assert sorted(file.name for file in path.parent.iterdir()) == ["toy.bin", "toy.xml"]
    return path


def test_an_openvino_file_is_a_file_like_the_other(toy, in_openvino, noise, capsys, tmp_path):
    """On the command line, in every precision that the CPU has."""
    found, expected = (Runtime(file)(noise / "0.png") for file in (in_openvino, toy[1]))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    assert isinstance(headway.load(in_openvino).predict(noise / "0.png"), headway.Detections)
    assert main(["bench", str(in_openvino), "--repeats", "2", "--precision", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"
    assert main(["predict", str(in_openvino), str(noise / "0.png"), "--out", str(tmp_path / "out")]) == 0
    assert main(["predict", str(in_openvino), str(noise), "--precision", "fp16"]) == 2
    assert "without --precision fp16" in capsys.readouterr().err
    with pytest.raises(HeadwayError, match="not in fp16"):
        Runtime(in_openvino, precision="fp16")


def test_a_damaged_openvino_file_is_told_in_a_line(in_openvino, tmp_path):
    text, weights = (file.read_bytes() for file in files_of(in_openvino))
    ours = json.dumps({"class_names": 3}).replace('"', "&quot;").encode()
    for number, (xml, content, message) in enumerate([
        (text, None, r"keeps its weights in \d\.bin, which is not there"),
        (text[: len(text) // 2], weights, "is no OpenVINO file that can be run"),
        (b"", weights, "is no OpenVINO file that can be run"),
        (text, weights[: len(weights) // 2], "is no OpenVINO file that can be run"),
        (text.replace(b"<headway>", b"<other>").replace(b"</headway>", b"</other>"), weights, "no valid card"),
        (re.sub(rb'<card value="[^"]*"', b'<card value="' + ours + b'"', text), weights, "no valid card"),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.xml"
        path.write_bytes(xml)
        if content is not None:
            path.with_suffix(".bin").write_bytes(content)
        with pytest.raises(HeadwayError, match=message):
            headway.load(path)


def test_the_command_says_where_it_writes_and_what_can_be_written(toy, tmp_path, capsys):
    model, _ = toy
    headway.save(model, tmp_path / "best.safetensors")
    command = ["export", str(tmp_path), "--to", "openvino", "--size", "64", "96", "--data", str(DATA), "--verify", "3"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert str(tmp_path / "export" / "best.xml") in told
    assert "detections in 3 pictures are the model's" in told
    assert main(["export", str(tmp_path), "--to", "pt2", "--out", str(tmp_path / "m.onnx")]) == 2
    assert "--to pt2 writes a file that ends in .pt2" in capsys.readouterr().err
    assert main(["export", "--formats", str(tmp_path / "best.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ttfnet": support()["ttfnet"]}
    assert main(["export", "--formats", "tf_efficientnet_lite0/fpn/dyhead/atss"]) == 0
    assert "any size" in capsys.readouterr().out
    assert main(["export", "--formats"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(support())


def test_a_file_of_other_weights_is_refused_and_renamed(tmp_path, monkeypatch):
    model = small_detector(TOY)
    monkeypatch.setattr(export_api, "fuse", perturbed)
    with pytest.raises(HeadwayError, match="does not find what its model finds"):
        headway.export(model, tmp_path / "m.onnx", size=grid.SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx.rejected"]
    with pytest.raises(HeadwayError, match=r"m\.onnx\.rejected exists; nothing is overwritten"):
        headway.export(model, tmp_path / "m.onnx")


def test_the_command_with_a_fixed_input_and_without_suppression(tmp_path, capsys):
    """A batch of 3 takes 4 pictures in two runs; pictures on their side are scaled to fit into the input."""
    model, out = small_detector(TOY), tmp_path / "m.onnx"
    model.set_card(replace(model.card, nms_iou=0.1))
    headway.save(model, tmp_path / "m.safetensors")
    arguments = ["export", str(tmp_path / "m.safetensors"), "--out", str(out), "--size", "60", "96", "--batch", "3"]
    assert main([*arguments, "--no-nms", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {k: report[k] for k in ("path", "size", "batch", "nms")} == {
        "path": str(out), "size": [64, 96], "batch": 3, "nms": False
    }  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    assert Runtime(out).prepare(pixels)[1] == (64, 43)
    (expected,) = model.detect(torch.tensor(pixels.swapaxes(0, 1)).permute(2, 0, 1)[None] / 255.0, nms_iou=None)
    found = Runtime(out)([pixels.swapaxes(0, 1)] * 4)
    assert [len(f.scores) for f in found] == [len(expected)] * 4
    assert len(expected) > len(model.detect(torch.tensor(pixels.swapaxes(0, 1)).permute(2, 0, 1)[None] / 255.0)[0])
    assert main(arguments) == 1
    assert "exists; nothing is overwritten" in capsys.readouterr().err


def test_padding_by_the_size_becomes_constant_where_it_is():
    """Exact at any multiple of 32; at a multiple of 16 the last stride meets an odd map, and nothing is changed."""
    torch.manual_seed(0)
    model = headway.fuse(headway.create_model("tf_efficientnet_lite0/fpn/atss", num_classes=2, **{"fpn.channels": 16}))
    inputs = [(torch.rand(1, 3, *size), torch.tensor([size])) for size in ((96, 128), (224, 160))]
    expected = [model(*each) for each in inputs]
    assert pads_by_size(model)
    assert not fix_padding(model, 16)
    assert pads_by_size(model)
    assert fix_padding(model, 32)
    assert not pads_by_size(model)
    for each, raw in zip(inputs, expected):
        for one, other in zip(model(*each), raw):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_load_gives_the_detections_of_the_model(toy):
    """A picture of the input's own size is not scaled, so all is equal but for rounding; in every form that is read."""
    model, file = toy
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    loaded = headway.load(file)
    all_found = model.predict(pixels)
    threshold = float(all_found.scores.median()) - 1e-4
    expected = model.predict(pixels, threshold=threshold)
    assert 3 <= len(expected) < len(all_found)
    for found in loaded.predict([pixels, Image.fromarray(pixels), pixels / 255.0], threshold=threshold):
        assert isinstance(found, headway.Detections)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
        assert found.labels.tolist() == expected.labels.tolist()
        assert (found.names, found.size) == (expected.names, expected.size)
        assert torch.equal(found.source, expected.source)
    assert str(loaded.predict(PICTURES[0])).startswith(
        f"<{len(model.predict(PICTURES[0]))} detections in {PICTURES[0]}"
    )


def test_a_file_takes_every_form_of_a_picture_and_the_options_of_predict(toy, tmp_path):
    model, file = toy
    loaded, path = headway.load(file), tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    everything = loaded.predict(path)
    pixels = torch.tensor(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    forms = [path.as_uri(), path.read_bytes(), io.BytesIO(path.read_bytes()), pixels, pixels / 255.0]
    for found in loaded.predict(forms, batch_size=2):
        torch.testing.assert_close(found.boxes, everything.boxes)
        assert found.source.shape == pixels.shape
    label = int(everything.labels[0])
    chosen = everything.filter(classes=[label])
    assert 2 < len(chosen) < len(everything)
    found = loaded.predict(path, classes=[model.card.class_names[label]], max_detections=2)
    assert torch.equal(found.boxes, chosen.boxes[:2])
    for options in ({"classes": ["no such"]}, {"max_detections": 0}, {"threshold": "0.3"}, {"batch_size": 0}):
        with pytest.raises(HeadwayError):
            loaded.predict(path, **options)


def test_boxes_are_in_pixels_of_the_upright_picture(toy, tmp_path):
    """Two files: one 64 x 96, and the same turned and marked so by EXIF; and one four times as large."""
    model, file = toy
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned to the left, to be turned right
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    turned, plain, large = Runtime(file)([tmp_path / "turned.png", pixels, pixels.repeat(4, 0).repeat(4, 1)])
    assert isinstance(plain, Found)
    np.testing.assert_array_equal(turned.boxes, plain.boxes)
    assert large.boxes.max() > 96 * 2
    (expected,) = model.predict([pixels.repeat(4, 0).repeat(4, 1)])
    np.testing.assert_allclose(large.boxes, expected.boxes, atol=0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99))
def test_pictures_are_scaled_as_by_the_model(toy, runtime, height, width, seed):
    model, _ = toy
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    ours, size = runtime.prepare(pixels)
    theirs = eval_transform(model.card.input_size)(torch.from_numpy(pixels).permute(2, 0, 1)).numpy()
    assert size == theirs.shape[1:]
    assert np.abs(ours[:, : size[0], : size[1]].astype(int) - theirs).max() <= 1
    assert not ours[:, size[0] :].any()
    assert not ours[:, :, size[1] :].any()


_WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "timm"):
    sys.modules[name] = None  # an import fails
from headway.runtime import Runtime
found = Runtime(sys.argv[1])(sys.argv[2:])
print([[f.boxes.tolist(), f.scores.tolist(), f.labels.tolist(), f.names] for f in found])
"""


def test_the_runtime_needs_no_torch(toy):
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(toy[1]), *map(str, PICTURES[:2])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = [
        [f.boxes.tolist(), f.scores.tolist(), f.labels.tolist(), f.names] for f in Runtime(toy[1])(PICTURES[:2])
    ]
    assert len(expected[0][1]) >= 3
    assert eval(printed) == expected


def test_what_cannot_be_is_told_in_a_line(toy, tmp_path, monkeypatch):
    model, file = toy
    for options, message in [
        ({"path": tmp_path / "m.pt"}, r"must end in \.onnx, \.xml, \.pt2"),
        ({"batch": 0}, "batch must be a number from 1 on or 'dynamic', got 0"),
        ({"size": (0, 96)}, r"size must be \(height, width\)"),
        ({"path": file}, "nothing is overwritten"),
    ]:
        with pytest.raises(HeadwayError, match=message):
            headway.export(model, **{"path": tmp_path / "m.onnx", **options})
    monkeypatch.setattr(export_api, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(HeadwayError, match=r"needs onnxscript: pip install 'headway\[export\]'"):
        headway.export(model, tmp_path / "m.onnx")
    with pytest.raises(HeadwayError, match="is an exported file"):
        load_model(str(file))


def test_a_file_that_is_not_ours_or_damaged_is_refused(toy, tmp_path):
    import onnx

    content = toy[1].read_bytes()
    bad = tmp_path / "bad.onnx"
    outside = tmp_path / "weights.bin"
    outside.write_bytes(bytes(4 * 3))
    points_outside, foreign, wrong_card = (onnx.load_from_string(content) for _ in range(3))
    weight = next(x for x in points_outside.graph.initializer if x.data_type == 1)
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    weight.external_data.add(key="location", value=str(outside))
    del foreign.metadata_props[:]
    next(x for x in wrong_card.metadata_props if x.key == "headway.card").value = '{"class_names": 3}'
    wrong_ids = onnx.load_from_string(content)
    entry = next(x for x in wrong_ids.metadata_props if x.key == "headway.card")
    entry.value = json.dumps({**json.loads(entry.value), "category_ids": 3})
    for data, message in [
        (wrong_ids.SerializeToString(), "was not written by headway's export: no valid card"),
        (content[: len(content) // 2], "is no ONNX file that can be run"),
        (b"", "is no ONNX file that can be run"),
        (points_outside.SerializeToString(), "is no ONNX file that can be run"),
        (foreign.SerializeToString(), "was not written by headway's export"),
        (wrong_card.SerializeToString(), "was not written by headway's export"),
    ]:
        bad.write_bytes(data)
        with pytest.raises(HeadwayError, match=message):
            headway.load(bad)
    with pytest.raises(HeadwayError, match="no checkpoint or run folder at"):
        headway.load(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", ["evil.onnx", "evil.xml"])
@pytest.mark.parametrize("location", ["secret.bin", "sub/../secret.bin", "{0}/secret.bin", "../{1}/secret.bin"])
def test_no_file_reads_another_one(name, location, tmp_path, monkeypatch):
    """An ONNX graph whose tensor lies in the current folder; as .xml too, which OpenVINO would open all the same."""
    import onnx
    from onnx import helper

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret.bin").write_bytes(np.arange(64, dtype=np.float32).tobytes())
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[64], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location.format(tmp_path, tmp_path.name))
    values = [helper.make_tensor_value_info(each, 1, [64]) for each in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    Path(name).write_bytes(model.SerializeToString())
    Path("evil.bin").write_bytes(b"")
    with pytest.raises(HeadwayError, match=r"is no (ONNX|OpenVINO) file that can be run"):
        Runtime(name)


def test_an_array_is_asked_for(toy):
    with pytest.raises(HeadwayError, match="must be an array"):
        Runtime(toy[1])(np.zeros((3, 64, 96), np.uint8))


def test_the_programs_of_the_page_find_what_the_runtime_finds(toy, in_openvino, noise):
    """With numpy, Pillow and an engine alone: docs/deploy.md is all that one has to read."""
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    program, session, *_ = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(program.splitlines()) < 40
    found: dict = {"__name__": "a module"}
    exec(program + session, found)
    card = found["json"].loads(onnxruntime.InferenceSession(toy[1]).get_modelmeta().custom_metadata_map["headway.card"])
    in_page = found["Session"](in_openvino)
    assert in_page.card == card
    for picture in (noise / "0.png", noise / "3.png", PICTURES[0]):
        expected = Runtime(toy[1])(picture, threshold=0.01)
        assert len(expected)
        for engine in (onnxruntime.InferenceSession(toy[1]), in_page):
            boxes, scores, names = found["detect"](engine, card, picture, threshold=0.01)
            np.testing.assert_allclose(boxes, expected.boxes, atol=0.5)  # not clipped to the picture
            np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
            assert names == [expected.names[label] for label in expected.labels]


# ------------------------------------------------------------------------------------------------- on the command line
_COMMAND_WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from headway.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Pictures of the input's own size, which nothing scales, one that is turned, and one that is broken."""
    folder = tmp_path_factory.mktemp("noise")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(folder / "3.png")
    (folder / "4.png").write_bytes(b"no picture")
    return folder


def test_predict_of_a_file_is_that_of_its_checkpoint_without_torch(toy, noise, tmp_path, capfd):
    model, file = toy
    checkpoint = headway.save(model, tmp_path / "m.safetensors")
    chosen = model.card.class_names[0]
    options = [str(noise), "--threshold", "0.01", "--classes", chosen, "--max-detections", "7", "--out"]
    assert main(["predict", str(checkpoint), *options, str(tmp_path / ".safetensors")]) == 1  # one picture is broken
    told = capfd.readouterr().err
    command = [sys.executable, "-c", _COMMAND_WITHOUT_TORCH, "predict", str(file), *options, str(tmp_path / ".onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, told)
    assert "skipped: image" in told
    assert "the 7 detections that are kept" in told
    ours, theirs = (tmp_path / suffix for suffix in (".onnx", ".safetensors"))
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    rows, expected = (json.loads((folder / "predictions.json").read_text()) for folder in (ours, theirs))
    assert 4 < len(rows) == len(expected)
    for row, other in zip(rows, expected):
        assert row["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert {**row, "bbox": 0, "score": 0} == {**other, "bbox": 0, "score": 0}
    with Image.open(ours / "3.jpg") as drawn:
        assert drawn.size == (64, 96)


def test_eval_of_a_file_is_that_of_its_model(toy, runtime, noise):
    """One class is not in the data, and its detections are left out."""
    model, _ = toy
    names = model.card.class_names
    samples = [
        headway.Sample(Image.open(noise / f"{number}.png"), [[4, 4, 40, 50], [50, 10, 90, 60]], [0, 1])
        for number in (0, 1, 3)
    ]
    data = open_data(samples, names[:2])["all"]
    expected = measure(model, data, max_detections=50).rows
    rows = measure_exported(runtime, data, batch_size=2, max_detections=50).rows
    assert {row["category_id"] for row in rows} == {1, 2}
    assert 20 < len(rows) == len(expected)
    for row, other in zip(rows, expected):
        assert (row["image_id"], row["category_id"]) == (other["image_id"], other["category_id"])
        assert row["bbox"] == pytest.approx(other["bbox"], abs=0.02)
    metrics = headway.evaluate(runtime.path, data)
    assert pytest.approx(headway.evaluate(model, data).AP, abs=1e-3) == metrics.AP


def test_bench_of_a_file_and_what_a_file_has_decided(toy, noise, tmp_path, capsys):
    _, file = toy
    assert main(["bench", str(file), "--repeats", "2", "--batch", "2", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["size"], result["batch"], result["threads"]) == ([64, 96], 2, 1)
    assert result["images_per_s"] == pytest.approx(2000 / result["latency_ms"]["median"])
    for arguments, option in (
        (["bench", str(file), "--precision", "bf16"], "without --precision bf16"),
        (["eval", str(file), "--data", str(noise), "--workers", "2"], "without --workers 2"),
        (["predict", str(file), str(noise), "--device", "cuda"], "without --device cuda"),
        (["predict", str(file), str(noise), "--nms-iou", "none"], "without --nms-iou none"),
    ):
        assert main(arguments) == 2
        assert option in capsys.readouterr().err
    assert main(["export", str(file), "--out", str(tmp_path / "m.onnx")]) == 1
    assert "is an exported file: predict, eval, bench" in capsys.readouterr().err


def test_a_job_with_a_file_needs_no_torch(toy, noise, tmp_path):
    """Neither the command nor its worker processes import it; the rows are those of plain predict."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "torchvision", "timm"):
        (blocked / f"{name}.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(blocked), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "headway.cli", "predict", str(toy[1]), str(noise), "--threshold", "0.01", "--out"]
    for options in (["plain", "--no-pictures"], ["job", "--workers", "2", "--shard-size", "4"]):
        options[0] = str(tmp_path / options[0])
        done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr  # one picture is broken
    plain, job = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("plain", "job"))
    assert len(job) > 4
    assert [row["score"] for row in job] == pytest.approx([row["score"] for row in plain], abs=1e-5)
