"""detectron2's files: names written out by hand from its modules, pickled numpy arrays, and what is built on it."""

import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import headway
from headway.convert import from_upstream, read_upstream
from headway.detector import Detector
from headway.errors import CheckpointError

SMALL = {"num_classes": 3, "channels": 32}
TWO_STAGE = {**SMALL, "hidden": 16}
CASES = {
    "retinanet_r50_fpn.detectron2": SMALL,
    "faster_rcnn_r50_fpn.detectron2": TWO_STAGE,
    "cascade_rcnn_r50_fpn.detectron2": TWO_STAGE,
}


def body_name(key: str) -> str:
    """`body....` of our backbone -> bottom_up."""
    key = key.removeprefix("body.")
    key = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
    key = re.sub(r"^(conv1|bn1)", r"stem.\1", key)
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    key = key.replace("conv2.conv_offset.", "conv2_offset.").replace("conv2.conv.", "conv2.")
    return "bottom_up." + re.sub(r"bn(\d)\.", r"conv\1.norm.", key)


def upstream_name(key: str, levels: int, stages: int) -> str:
    """Our key -> detectron2's. levels: laterals of the FPN, which end at level 5."""
    part, rest = key.split(".", 1)
    if part == "backbone":
        return "backbone." + body_name(rest)
    if part == "neck":
        kind, index, leaf = rest.split(".")
        level = 6 - levels + int(index)
        names = {"laterals": f"fpn_lateral{level}", "outputs": f"fpn_output{level}"}
        return f"backbone.{names.get(kind, f'top_block.p{6 + int(index)}')}.{leaf}"
    tower = re.fullmatch(r"(cls|box)_tower\.(\d)\.conv\.(\w+)", rest)
    if tower:
        return f"head.{ {'cls': 'cls_subnet', 'box': 'bbox_subnet'}[tower[1]] }.{2 * int(tower[2])}.{tower[3]}"
    rest = rest.replace("rpn.convs.0.", "proposal_generator.rpn_head.conv.")
    rest = rest.replace("rpn.cls.", "proposal_generator.rpn_head.objectness_logits.")
    rest = rest.replace("rpn.box.", "proposal_generator.rpn_head.anchor_deltas.")
    rest = re.sub(r"^heads\.(\d)\.fcs\.(\d)", lambda m: f"roi_heads.box_head.{m[1]}.fc{int(m[2]) + 1}", rest)
    rest = re.sub(r"^heads\.(\d)\.cls", r"roi_heads.box_predictor.\1.cls_score", rest)
    rest = re.sub(r"^heads\.(\d)\.box", r"roi_heads.box_predictor.\1.bbox_pred", rest)
    rest = re.sub(r"^cls\.", "head.cls_score.", re.sub(r"^box\.", "head.bbox_pred.", rest))
    return re.sub(r"(box_head|box_predictor)\.0", r"\1", rest) if stages == 1 else rest


def scale_major(tensor: Tensor) -> Tensor:
    """Rows by (ratio, scale, output) -> by (scale, ratio, output)."""
    return tensor.view(3, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)


def upstream_state(model: Detector) -> dict[str, Tensor]:
    """The model's weights under detectron2's names, frozen norms without counters, and the buffers beside them."""
    fpn = model.neck[0] if isinstance(model.neck, torch.nn.Sequential) else model.neck
    stages = len(getattr(model.head, "heads", []))
    state = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    place = "proposal_generator." if stages else ""
    state |= {f"{place}anchor_generator.cell_anchors.{i}": torch.zeros(3, 4) for i in range(5)}
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            dense_output = re.match(r"head\.(cls|box)\.", key)
            state[upstream_name(key, len(fpn.laterals), stages)] = scale_major(value) if dense_output else value
    return state


def perturbed(tag: str, **arguments) -> Detector:
    torch.manual_seed(0)
    model = headway.create_model(tag, **arguments)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model


def assert_same(found: dict[str, Tensor], model: Detector) -> None:
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("tag", CASES)
def test_a_model_comes_back_whole_from_a_pickle_of_arrays(tag, tmp_path):
    model = perturbed(tag, **CASES[tag])
    state = upstream_state(model)
    known = {
        "retinanet": {"backbone.fpn_lateral3.weight", "backbone.top_block.p7.bias", "head.cls_subnet.6.weight"},
        "faster": {
            "backbone.fpn_output2.bias",
            "roi_heads.box_head.fc2.bias",
            "roi_heads.box_predictor.bbox_pred.bias",
        },
        "cascade": {"proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.2.cls_score.weight"},
    }
    assert known[tag.split("_")[0]] | {"backbone.bottom_up.res5.0.shortcut.norm.running_var"} <= set(state)
    if tag.startswith("cascade"):
        state["roi_heads.mask_head.mask_fcn1.weight"] = torch.zeros(2, 2)
    path = tmp_path / "model_final.pkl"
    arrays = {key: value.numpy() for key, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "model zoo"}))
    again = headway.create_model(tag, pretrained=path, **CASES[tag])
    assert_same(again.state_dict(), model)
    assert again.card.channels == "bgr"


def test_a_head_of_other_classes_is_named():
    """Its nine anchors' outputs are reordered, which those of three classes cannot be for four."""
    tag = "retinanet_r50_fpn.detectron2"
    state = upstream_state(perturbed(tag, **CASES[tag]))
    with pytest.raises(
        CheckpointError, match=r"of another shape: head\.cls_score\.weight \(27, 32, 3, 3\) -> head\.cls\."
    ):
        from_upstream(state, "detectron2", headway.create_model(tag, **{**CASES[tag], "num_classes": 4}))


def test_deformable_layers_keep_their_offsets_beside_them():
    model = perturbed("faster_rcnn_r50_fpn.detectron2", **TWO_STAGE, dcn=("c3", "c4", "c5"), dcn_version=1)
    state = upstream_state(model)
    assert "backbone.bottom_up.res3.0.conv2_offset.bias" in state
    assert_same(from_upstream(state, "detectron2", model), model)


def test_the_authors_dynamic_head_in_two_stages():
    """detectron2's names one `backbone.` deeper, and the tower behind the pyramid."""
    model = perturbed("faster_rcnn_r50_fpn_dyhead.official", **TWO_STAGE, blocks=1)
    inner, tower = {}, {}
    for key, value in model.state_dict().items():
        if key.startswith("neck.1."):
            tower[key] = value
        elif not key.endswith("num_batches_tracked"):
            inner[upstream_name(key.replace("neck.0.", "neck."), 4, 1)] = value
    state = {f"backbone.{k}" if k.startswith("backbone.") else k: v for k, v in inner.items()}
    names = {
        "spatial.offset": "offset", "spatial.high.conv": "DyConv.0.conv", "spatial.high.norm": "DyConv.0.bn",
        "spatial.mid.conv": "DyConv.1.conv", "spatial.mid.norm": "DyConv.1.bn", "spatial.low.conv": "DyConv.2.conv",
        "spatial.low.norm": "DyConv.2.bn", "scale.gate": "AttnConv.1", "task.reduce": "relu.fc.0",
        "task.expand": "relu.fc.2",
    }  # fmt: skip
    for key, value in tower.items():
        inside, leaf = key.removeprefix("neck.1.blocks.0.").rsplit(".", 1)
        linear = inside.startswith("task") and leaf == "weight"
        state[f"backbone.dyhead_tower.0.{names[inside]}.{leaf}"] = value.flatten(1) if linear else value
    assert "backbone.backbone.fpn_lateral2.weight" in state
    assert "roi_heads.box_head.fc1.weight" in state
    assert_same(from_upstream(state, "dynamichead", model), model)


# -------------------------------------------------------------------------------------------- pickles of arrays
ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(4, dtype=np.float16),
    "double": np.linspace(0, 1, 5),
    "integer": np.array(7),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "columns first": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "slice": np.arange(24).reshape(4, 6)[1:3, ::2],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_kind_come_back(protocol, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS}, protocol=protocol))
    found = read_upstream(path)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_python_2_wrote_bytes_as_text(tmp_path):
    """Protocol 2 by hand, as Python 2 had it: the array's content is a string of bytes, not a call to encode it."""
    content = struct.pack("<2f", 1.5, -200.0)
    stream = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(content)]) + content + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(stream)
    assert pickle.loads(stream, encoding="latin1")["a"].tolist() == [1.5, -200]
    assert read_upstream(tmp_path / "a.pkl")["a"].tolist() == [1.5, -200]


class Hostile:
    """Makes a folder when unpickled by anything that obeys pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_nothing_in_a_bare_pickle_is_run(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "other": Hostile(tmp_path / "ran")}))
    assert read_upstream(path)["a"].tolist() == [1, 1]
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the marker works"


@pytest.mark.parametrize(
    "content",
    [
        {"a": np.array([Hostile(Path("nowhere"))], dtype=object)},
        {"a": np.ones(2, ">f4")},
        {"a": np.array(["text"])},
        pickle.dumps({"a": np.ones(3)}).replace(struct.pack("<3d", 1, 1, 1), struct.pack("<2d", 1, 1)),
        pickle.dumps({"a": np.ones(3)}, protocol=2)[:-9],
    ],
    ids=["objects", "big-endian", "text", "too short", "cut off"],
)
def test_arrays_of_anything_else_are_refused(content, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    refusal = r"a\.pkl is (no checkpoint that can be read safely|refused: an array of '(O8|U4)' where little-endian)"
    with pytest.raises(CheckpointError, match=refusal):
        read_upstream(path)
    assert not Path("nowhere").exists()
