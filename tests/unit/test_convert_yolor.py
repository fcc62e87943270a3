"""Names of YOLOR, YOLOv4-CSP and Scaled-YOLOv4 checkpoints, by the line numbers that their files were seen to have, and
Darknet's `.weights` files, written here byte by byte."""

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.convert import from_upstream, read_upstream
from headway.convert.yolor_cfg import lines
from headway.detector import Detector
from headway.errors import CheckpointError

# --------------------------------------------------------------------------------------------------------- cfg names
# Of each network the line of every convolution by its role: a stage is (down, bypass, entry, first and last bottleneck,
# then transition if there is one, merge); a node of the neck (its 1x1 on the way to finer maps and the lateral one, or
# the strided convolution on the way back; entry, bypass, first and last pair, merge).
P6 = {
    "stem": [1], "residual": [],
    "stages": [(2, 3, 5, 6, 12, 16), (17, 18, 20, 21, 39, 43), (44, 45, 47, 48, 66, 70), (71, 72, 74, 75, 81, 85),
               (86, 87, 89, 90, 96, 100)],
    "spp": [101, 103, 104, 105, 112, 113, 115],
    "tops": [(116, 119, 121, 122, 124, 128, 131), (132, 135, 137, 138, 140, 144, 147),
             (148, 151, 153, 154, 156, 160, 163)],
    "bottoms": [(164, 166, 167, 169, 173, 176), (177, 179, 180, 182, 186, 189), (190, 192, 193, 195, 199, 202)],
    "vectors": [203, 204, 205, 206, 207, 208, 209, 210],
    "heads": [(212, 214), (218, 220), (224, 226), (230, 232)],
}  # fmt: skip
CSP = {
    "stem": [0, 1], "residual": [2, 3],
    "stages": [(5, 6, 8, 9, 12, 15, 17), (18, 19, 21, 22, 43, 46, 48), (49, 50, 52, 53, 74, 77, 79),
               (80, 81, 83, 84, 93, 96, 98)],
    "spp": [99, 101, 102, 103, 110, 111, 113],
    "tops": [(114, 117, 119, 120, 122, 124, 127), (128, 131, 133, 134, 136, 138, 141)],
    "bottoms": [(142, 144, 145, 147, 149, 152), (153, 155, 156, 158, 160, 163)],
    "vectors": [164, 165, 166, 167, 168, 169],
    "heads": [(171, 173), (177, 179), (183, 185)],
}  # fmt: skip
CSP_X = {
    "stem": [0, 1], "residual": [2, 3],
    "stages": [(5, 6, 8, 9, 15, 18, 20), (21, 22, 24, 25, 52, 55, 57), (58, 59, 61, 62, 89, 92, 94),
               (95, 96, 98, 99, 111, 114, 116)],
    "spp": [117, 119, 120, 121, 128, 129, 130, 131, 133],
    "tops": [(134, 137, 139, 140, 142, 146, 149), (150, 153, 155, 156, 158, 162, 165)],
    "bottoms": [(166, 168, 169, 171, 175, 178), (179, 181, 182, 184, 188, 191)],
    "vectors": [192, 193, 194, 195, 196, 197],
    "heads": [(199, 201), (205, 207), (211, 213)],
}  # fmt: skip
CFG = {
    "yolor_p6": P6,
    "yolor_w6": P6,
    "yolor_csp": CSP,
    "yolor_csp_x": CSP_X,
    "yolov4_csp": {**CSP, "vectors": [], "heads": [(165, 166), (169, 170), (173, 174)]},
}


def expected_lines(roles: dict) -> dict[str, int]:
    """Our path -> the line."""
    first = 0 if roles["residual"] else 1  # behind space to depth
    found = {f"backbone.stem.{i}": n for i, n in enumerate(roles["stem"], first)}
    found |= {f"backbone.residual.conv{i}": n for i, n in enumerate(roles["residual"], 1)}
    for i, (down, bypass, entry, first, last, *ends) in enumerate(roles["stages"]):
        stage = f"backbone.stages.{i}."
        found |= {f"backbone.downs.{i}": down, stage + "bypass": bypass, stage + "cv1": entry}
        found |= pairs(stage, first, last, 3)
        found |= {stage + name: n for name, n in zip(("merge", "transition"), reversed(ends))}
    names = ["bypass", "conv1", "conv2", "conv3", "after1", "after2", "extra1", "extra2"][: len(roles["spp"]) - 1]
    found |= {f"neck.spp.{name}": n for name, n in zip([*names, "merge"], roles["spp"])}
    for i, (reduce, lateral, *rest) in enumerate(roles["tops"]):
        found |= {f"neck.reduces.{i}": reduce, f"neck.laterals.{i}": lateral} | node(f"neck.tops.{i}.", *rest)
    for i, (down, *rest) in enumerate(roles["bottoms"]):
        found |= {f"neck.downs.{i}": down} | node(f"neck.bottoms.{i}.", *rest)
    levels, vectors = len(roles["heads"]), roles["vectors"]
    for i, (conv, prediction) in enumerate(roles["heads"]):
        place = f"head.predictions.{i}"
        found |= {f"head.convs.{i}": conv, place + (".conv" if vectors else ""): prediction}
        if vectors:
            found |= {f"{place}.align.value": vectors[i], f"{place}.refine.value": vectors[levels + i]}
    return found


def pairs(block: str, first: int, last: int, step: int) -> dict[str, int]:
    numbers = enumerate(range(first, last + 1, step))
    return {f"{block}blocks.{i}.conv{k}": n + k - 1 for i, n in numbers for k in (1, 2)}


def node(block: str, entry: int, bypass: int, first: int, last: int, merge: int) -> dict[str, int]:
    return {block + "entry": entry, block + "bypass": bypass, block + "merge": merge} | pairs(block, first, last, 2)


def built(name: str, **arguments) -> Detector:
    with torch.device("meta"):
        return headway.create_model(name, **arguments)


@pytest.mark.parametrize("name", CFG)
def test_every_line_of_a_cfg_is_where_it_was_seen(name):
    found = lines(built(f"{name}.cfg"))
    assert {line.path: line.number for line in found} == expected_lines(CFG[name])
    assert len({line.number for line in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "count"), [("yolov4_csp", 164), ("yolov4_csp_x", 192), ("yolov4_p5", 232), ("yolov4_p6", 289)]
)
def test_lines_before_the_heads_are_as_many_as_darknet_cuts_off(name, count):
    """AlexeyAB/darknet's files for pre-training: yolov4-csp-swish.conv.164, yolov4-csp-x-swish.conv.192,
    yolov4-p5.conv.232, yolov4-p6.conv.289. The first head is a route and then its 3x3 convolution."""
    found = {line.path: line.number for line in lines(built(name, form="cfg"))}
    assert found["head.convs.0"] == count + 1


def cfg_names(model: Detector) -> dict[str, str]:
    """Our keys -> the cfg's, by the numbers of the tested lines."""
    numbers = {line.path: line.number for line in lines(model)}
    result = {}
    for key in model.state_dict():
        path, _, leaf = key.rpartition(".")
        if key in numbers:
            result[key] = f"module_list.{numbers[key]}.implicit"
        elif path in numbers:
            result[key] = f"module_list.{numbers[path]}.Conv2d.{leaf}"
        else:
            layer = "Conv2d" if path.endswith(".conv") else "BatchNorm2d"
            result[key] = f"module_list.{numbers[path.rpartition('.')[0]]}.{layer}.{leaf}"
    return result


def numbered(names: dict[str, str], model: Detector) -> dict[str, Tensor]:
    """A state dict in upstream's names, each tensor full of its own number, without memory."""
    shapes = model.state_dict()
    return {theirs: torch.tensor(float(i)).expand(shapes[ours].shape) for i, (ours, theirs) in enumerate(names.items())}


def check_conversion(model: Detector, names: dict[str, str], source: str) -> None:
    """All keys; without counters; with the prefix of a parallel network; one too many and one missing."""
    state = numbered(names, model)
    order = {ours: i for i, ours in enumerate(names)}
    without = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for given in (state, without, {f"module.{k}": v for k, v in state.items()}):
        found = from_upstream(given, source, model)
        assert set(found) == set(model.state_dict())
        assert all(found[k].flatten()[0] == order[k] for k in found if not k.endswith("num_batches_tracked"))
    with pytest.raises(CheckpointError, match=f"fit as {source}: 1 upstream keys unmapped: other"):
        from_upstream({**state, "other": torch.zeros(1)}, source, model)
    lost = next(k for k in without if "weight" in k)
    with pytest.raises(CheckpointError, match="1 keys of the model not filled"):
        from_upstream({k: v for k, v in without.items() if k != lost}, source, model)


@pytest.mark.parametrize("name", ["yolor_csp_x", "yolor_csp", "yolor_p6", "yolor_w6", "yolov4_csp"])
def test_cfg_checkpoints_convert(name):
    model = built(f"{name}.cfg")
    check_conversion(model, cfg_names(model), "yolor_cfg")


# -------------------------------------------------------------------------------------------------------- yaml names
# Lines of the P6-type networks: down and stage in turn, pooling, the way to finer maps, the way back with a head each.
YAML_P6 = {
    "stem": 1, "downs": [2, 4, 6, 8, 10], "stages": [3, 5, 7, 9, 11], "spp": 12,
    "reduces": [13, 18, 23], "laterals": [15, 20, 25], "tops": [17, 22, 27],
    "back": [29, 33, 37], "bottoms": [31, 35, 39], "heads": [28, 32, 36, 40], "detect": 41,
}  # fmt: skip
# P5: no line for space to depth, three levels: one fewer of each. P6 and P7 have one stage and one level more each.
YAML_P5 = {
    "stem": 0, "downs": [1, 3, 5, 7, 9], "stages": [2, 4, 6, 8, 10], "spp": 11,
    "reduces": [12, 17], "laterals": [14, 19], "tops": [16, 21],
    "back": [23, 27], "bottoms": [25, 29], "heads": [22, 26, 30], "detect": 31,
}  # fmt: skip
YAML = {
    "yolor_p6": YAML_P6, "yolor_w6": YAML_P6, "yolor_e6": YAML_P6, "yolor_d6": YAML_P6, "yolov4_p5": YAML_P5,
    "yolov4_p6": {
        "stem": 0, "downs": [1, 3, 5, 7, 9, 11], "stages": [2, 4, 6, 8, 10, 12], "spp": 13,
        "reduces": [14, 19, 24], "laterals": [16, 21, 26], "tops": [18, 23, 28],
        "back": [30, 34, 38], "bottoms": [32, 36, 40], "heads": [29, 33, 37, 41], "detect": 42,
    },
    "yolov4_p7": {
        "stem": 0, "downs": [1, 3, 5, 7, 9, 11, 13], "stages": [2, 4, 6, 8, 10, 12, 14], "spp": 15,
        "reduces": [16, 21, 26, 31], "laterals": [18, 23, 28, 33], "tops": [20, 25, 30, 35],
        "back": [37, 41, 45, 49], "bottoms": [39, 43, 47, 51], "heads": [36, 40, 44, 48, 52], "detect": 53,
    },
}  # fmt: skip
STAGE = {"cv1": "cv1", "bypass": "cv2", "transition": "cv3", "merge": "cv4"}
NODE = {"entry": "cv1", "bypass": "cv2", "merge": "cv3"}
SPP = {
    "conv1": "cv1", "bypass": "cv2", "conv2": "cv3", "conv3": "cv4", "after1": "cv5", "after2": "cv6", "merge": "cv7",
}  # fmt: skip
DOWN = {"conv1": "cv1", "conv2": "cv2", "pooled": "cv3"}
KINDS = {"stages": STAGE, "tops": NODE, "bottoms": NODE, "spp": SPP, "downs": DOWN}


def yaml_name(key: str, numbers: dict) -> str:
    """Our key -> the yaml network's."""
    part, kind, *rest = key.split(".")
    leaf = rest[-1]
    if (part, kind) == ("head", "predictions"):
        detect = f"model.{numbers['detect']}."
        branch = {"align": "ia", "refine": "im"}.get(rest[1], "m")
        return f"{detect}{branch}.{rest[0]}.{'implicit' if branch != 'm' else leaf}"
    if kind in ("stem", "spp"):
        number = numbers[kind]
    else:
        group = {("neck", "downs"): "back", ("head", "convs"): "heads"}.get((part, kind), kind)
        number = numbers[group][int(rest[0])]
    inner = rest if kind == "spp" else rest[1:]
    place = "bn" if inner[-2:-1] == ["norm"] else "conv" if inner[-2:-1] == ["conv"] else ""
    if inner[0] == "blocks":
        return f"model.{number}.m.{inner[1]}.cv{inner[2][-1]}.{place}.{leaf}"
    block = KINDS.get(kind, {}).get(inner[0], "") if len(inner) > 1 else ""
    return ".".join(filter(None, (f"model.{number}", block, place, leaf)))


@pytest.mark.parametrize("name", YAML)
def test_yaml_checkpoints_convert(name):
    model = built(f"{name}.yaml")
    names = {key: yaml_name(key, YAML[name]) for key in model.state_dict()}
    assert len(set(names.values())) == len(names)
    check_conversion(model, names, "yolor_yaml")


def test_the_blocks_of_a_yaml_network_have_their_parts():
    e6 = set({key: yaml_name(key, YAML_P6) for key in built("yolor_e6.yaml").state_dict()}.values())
    assert {"model.2.cv3.conv.weight", "model.12.cv7.bn.bias", "model.12.bn.weight", "model.41.ia.3.implicit"} <= e6
    assert {"model.3.cv2.weight", "model.3.cv4.conv.weight", "model.29.cv1.bn.weight", "model.40.conv.weight"} <= e6
    assert not any(key.startswith("model.3.cv3.") for key in e6), "fusion first has no transition"
    p7 = set({key: yaml_name(key, YAML["yolov4_p7"]) for key in built("yolov4_p7.yaml").state_dict()}.values())
    assert {"model.14.cv3.weight", "model.53.m.4.bias", "model.2.m.0.cv1.conv.weight"} <= p7


def test_anchors_of_a_yaml_checkpoint_are_compared():
    """Grid units in `anchors`, pixels in `anchor_grid`; both may be missing, half precision is exact enough."""
    model = headway.create_model("yolor_p6.yaml")
    state = numbered({key: yaml_name(key, YAML_P6) for key in model.state_dict()}, model)
    grid = model.head.anchors.detach().clone().view(4, 1, 3, 1, 1, 2)
    buffers = {"model.41.anchors": grid.view(4, 3, 2) / 8, "model.41.anchor_grid": grid.half()}
    from_upstream(state | buffers, "yolor_yaml", model)
    grid[3, 0, 2, 0, 0, 1] += 40
    with pytest.raises(CheckpointError, match=r"anchor_grid holds other anchors .*925, 832.* against .*925, 792"):
        from_upstream(state | buffers | {"model.41.anchor_grid": grid}, "yolor_yaml", model)
    with pytest.raises(CheckpointError, match=r"anchor_grid holds other anchors"):
        from_upstream(state | {"model.41.anchor_grid": torch.ones(4, 1, 2, 1, 1, 2)}, "yolor_yaml", model)


class Layer(nn.Module):
    """A module with any children and tensors."""

    def put(self, name: str, value: Tensor) -> None:
        first, _, rest = name.partition(".")
        if rest:
            if first not in self._modules:
                self.add_module(first, Layer())
            self._modules[first].put(rest, value)
        elif value.is_floating_point() and not first.startswith(("running", "anchor")):
            self.register_parameter(first, nn.Parameter(value))
        else:
            self.register_buffer(first, value)


@pytest.mark.parametrize("name", ["yolor_p6.yaml", "yolor_e6.yaml"])
def test_a_network_pickled_in_half_precision_loads_through_its_tag(name, tmp_path):
    """As the published files are: whole, under `model`, with the buffers of its anchors."""
    small = {"width": 0.125, "depth": 0.34, "num_classes": 2}
    torch.manual_seed(0)
    model, network = headway.create_model(name, **small), Layer()
    for key, value in model.state_dict().items():
        network.put(yaml_name(key, YAML_P6), value.clone())
    network.put("model.41.anchors", model.head.anchors / torch.tensor([8.0, 16, 32, 64]).view(4, 1, 1))
    network.put("model.41.anchor_grid", model.head.anchors.view(4, 1, 3, 1, 1, 2).clone())
    torch.save({"epoch": -1, "model": network.half(), "optimizer": None}, tmp_path / "a.pt")
    loaded = headway.create_model(name, pretrained=tmp_path / "a.pt", **small)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float() if value.is_floating_point() else value), key
    cfg = headway.create_model(name, form="cfg", **small)
    with pytest.raises(CheckpointError, match="built in the cfg form"):
        from_upstream(read_upstream(tmp_path / "a.pt"), "yolor_yaml", cfg)


# --------------------------------------------------------------------------------------------------- forms, families
@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("yolor_p6.yaml", "yolor_cfg", "built in the yaml form, which computes another function than a cfg checkpoint"),
        ("yolor_p6.cfg", "yolor_yaml", "built in the cfg form, which computes another function than a yaml checkpoint"),
        ("retinanet_r50_fpn", "yolor_cfg", "retinanet_r50_fpn is no YOLOv4-CSP, Scaled-YOLOv4 or YOLOR model"),
        ("retinanet_r50_fpn", "yolor_yaml", "retinanet_r50_fpn is no YOLOv4-CSP, Scaled-YOLOv4 or YOLOR model"),
        ("retinanet_r50_fpn", "yolov4", "expected the numbers of a Darknet .weights file alone, under 'weights'"),
        ("yolor_csp.cfg", "yolov4", "expected the numbers of a Darknet .weights file alone"),
    ],
)
def test_another_form_or_family_is_refused(name, source, reason):
    with pytest.raises(CheckpointError, match=reason):
        from_upstream({"model.0.weight": torch.zeros(1)}, source, built(name))


def test_e6_has_no_cfg():
    with pytest.raises(CheckpointError, match="no cfg was published of E6 and D6"):
        from_upstream({}, "yolor_cfg", built("yolor_e6", form="cfg"))


# ----------------------------------------------------------------------------------------------------------- Darknet
@pytest.mark.parametrize(
    ("name", "mebibytes"), [("yolov4_csp.darknet_swish", 202), ("yolov4_csp_x.darknet_swish", 381)]
)
def test_the_published_files_are_as_long_as_these_networks(name, mebibytes):
    """AlexeyAB/darknet's release notes give 202 and 381 MB; the header is 20 bytes."""
    state = built(name).state_dict()
    count = sum(value.numel() for key, value in state.items() if not key.endswith("num_batches_tracked"))
    assert round((20 + 4 * count) / 2**20) == mebibytes


NORM = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "conv.weight")


@pytest.fixture(scope="module")
def small() -> Detector:
    """With statistics that are not those of a fresh norm."""
    torch.manual_seed(0)
    model = headway.create_model("yolov4_csp", width=0.125, depth=0.3, num_classes=2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.weight, 0.5), (module.bias, -1), (module.running_mean, -1)):
                nn.init.uniform_(value, low, 1.5)
            nn.init.uniform_(module.running_var, 0.1, 2)
    return model


def layer_names(model: Detector, heads: str) -> list[str]:
    """Our names of the layers as Darknet's files have them, written down from the sheet's roles: each block's bypass
    before its entry on the way down, behind it in the neck. heads: "at the end" or "between"."""
    names = ["backbone.stem.0", "backbone.stem.1", "backbone.residual.conv1", "backbone.residual.conv2"]
    for i, stage in enumerate(model.backbone.stages):
        block = f"backbone.stages.{i}."
        names += [f"backbone.downs.{i}", block + "bypass", block + "cv1", *inner(block, stage)]
        names += [block + "transition", block + "merge"]
    names += ["neck.spp." + part for part in ("bypass", "conv1", "conv2", "conv3", "after1", "after2", "merge")]
    head = [[f"head.convs.{i}", f"head.predictions.{i}"] for i in range(3)]
    between = heads == "between"
    for i, top in enumerate(model.neck.tops):
        block = f"neck.tops.{i}."
        names += [f"neck.reduces.{i}", f"neck.laterals.{i}", block + "entry", block + "bypass", *inner(block, top)]
        names += [block + "merge"]
    names += head[0] if between else []
    for i, bottom in enumerate(model.neck.bottoms):
        block = f"neck.bottoms.{i}."
        names += [f"neck.downs.{i}", block + "entry", block + "bypass", *inner(block, bottom), block + "merge"]
        names += head[i + 1] if between else []
    return names if between else [*names, *head[0], *head[1], *head[2]]


def inner(block: str, module: nn.Module) -> list[str]:
    return [f"{block}blocks.{i}.conv{k}" for i in range(len(module.blocks)) for k in (1, 2)]


def darknet_file(path: Path, model: Detector, heads: str = "at the end", version: tuple[int, int] = (0, 2)) -> Path:
    """Written number by number."""
    state, content = model.state_dict(), struct.pack("<3i", *version, 5)
    content += struct.pack("<q" if version >= (0, 2) else "<i", 32_013_312)
    for name in layer_names(model, heads):
        leaves = ("bias", "weight") if "predictions" in name else NORM
        for leaf in leaves:
            values = state[f"{name}.{leaf}"].flatten().tolist()
            content += struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [(0, 2), (0, 1)])
@pytest.mark.parametrize("heads", ["at the end", "between"])
def test_a_darknet_file_is_read_whole(small, tmp_path, heads, version):
    read = read_upstream(darknet_file(tmp_path / "a.weights", small, heads, version))
    assert list(read) == ["weights"]
    assert read["weights"].dtype == torch.float32
    found, expected = from_upstream(read, "yolov4", small), small.state_dict()
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_the_first_numbers_of_a_darknet_file_are_the_stem_s(small, tmp_path):
    """Beta, gamma, mean, variance, then the weight in the order output, input, row, column."""
    norm, conv = small.backbone.stem[0].norm, small.backbone.stem[0].conv
    numbers = read_upstream(darknet_file(tmp_path / "a.weights", small))["weights"]
    start = [norm.bias, norm.weight, norm.running_mean, norm.running_var]
    count = len(norm.bias)
    for i, value in enumerate(start):
        assert numbers[i * count : (i + 1) * count].tolist() == value.tolist()
    assert numbers[4 * count].item() == conv.weight[0, 0, 0, 0].item()
    assert numbers[4 * count + 1].item() == conv.weight[0, 0, 0, 1].item()


def test_a_darknet_file_of_another_length_says_what_was_expected(small, tmp_path):
    path = darknet_file(tmp_path / "a.weights", small)
    count = len(read_upstream(path)["weights"])
    short = tmp_path / "short.weights"
    short.write_bytes(path.read_bytes()[:-4])
    reason = rf"the file holds {count - 1} numbers, this model with 2 classes takes {count}; it may be of another"
    with pytest.raises(CheckpointError, match=reason):
        from_upstream(read_upstream(short), "yolov4", small)
    five = headway.create_model("yolov4_csp", width=0.125, depth=0.3, num_classes=5)
    with pytest.raises(CheckpointError, match="as many as 2 classes would take: num_classes=2"):
        from_upstream(read_upstream(path), "yolov4", five)


def test_darknet_numbers_in_no_known_order_are_refused(small, tmp_path):
    numbers = read_upstream(darknet_file(tmp_path / "a.weights", small))["weights"]
    with pytest.raises(CheckpointError, match="some running variances would be negative"):
        from_upstream({"weights": numbers.flip(0)}, "yolov4", small)


def test_darknet_files_hold_nothing_implicit(small):
    model = headway.create_model("yolor_csp", width=0.125, depth=0.3, num_classes=2)
    with pytest.raises(CheckpointError, match="Darknet files hold no implicit vectors: use yolov4_csp"):
        from_upstream({"weights": torch.zeros(9)}, "yolov4", model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a header of 16 bytes and then 4 bytes a number, got 0 bytes"),
        (
            struct.pack("<3iq", 0, 2, 5, 0),
            "of 20 bytes and then 4 bytes a number, got 20 bytes of version 0.2",
        ),
        (struct.pack("<3iqf", 0, 2, 5, 0, 1.0) + b"x", "then 4 bytes a number, got 25 bytes"),
        (struct.pack("<3iqf", -7, 2, 5, 0, 1.0), "version -7.2"),
    ],
)
def test_what_is_no_darknet_file_is_refused(content, reason, tmp_path):
    path = tmp_path / "a.weights"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\.weights is no Darknet \.weights file.*{reason}"):
        read_upstream(path)


def test_a_tag_loads_a_local_darknet_file(small, tmp_path):
    path = darknet_file(tmp_path / "a.weights", small, "between")
    model = headway.create_model(
        "yolov4_csp.darknet", pretrained=path, width=0.125, depth=0.3, num_classes=2, class_names=["a", "b"]
    )
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in model.state_dict().items())
    assert isinstance(model.backbone.stem[0].act, nn.Mish)
    assert model.backbone.stem[0].norm.eps == 1e-5
