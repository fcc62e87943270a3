"""From a name to a detector: where arguments belong, what parts ask of each other, and what is refused."""

import inspect
import json
import logging

import pytest
import torch
from mmdet_names import mmdet_names
from torch import nn

import headway
from headway import registry
from headway.errors import HeadwayError
from headway.factory import Place, builder_arguments, places, plan_of, split_path, with_classes
from headway.layers.implicit import Implicit
from headway.models import MODELS
from headway.types import Levels

PATH = "resnet18/fpn/dyhead/atss"
NAME = "atss_r18_fpn_dyhead"


def meta(name: str, **options) -> headway.Detector:
    with torch.device("meta"):
        return headway.create_model(name, **options)


def sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.fixture
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    registry.list_parts()
    monkeypatch.setattr(registry, "_PARTS", dict(registry._PARTS))


# ------------------------------------------------------------------------------------------------------------ names
def test_names_are_sorted_and_filtered_by_text_and_glob():
    assert headway.list_models() == sorted(MODELS)
    assert {"retinanet_r50_fpn", "fcos_r50_fpn_dyhead", NAME} <= set(headway.list_models())
    assert headway.list_models("r18_fpn_dyhead") == headway.list_models("*r18_fpn_dyhead*")
    assert headway.list_models("*dyhead*") == [n for n in sorted(MODELS) if "dyhead" in n] != []
    assert headway.list_models("atss_r[15]*_fpn") == ["atss_r101_fpn", "atss_r18_fpn", "atss_r50_fpn"]
    assert headway.list_models("dyhead*") == headway.list_models("no such") == []


def test_a_published_name_is_its_path_and_arguments():
    path, arguments = MODELS[NAME]
    named, composed = meta(NAME), meta(path, **arguments)
    assert sizes(named) == sizes(composed)
    assert (named.card.model, named.card.arguments) == (NAME, {})
    assert (composed.card.model, composed.card.arguments) == (path, dict(arguments))
    assert named.card.input_size == composed.card.input_size == (320, 320)


def test_compose_and_create_model_build_the_same():
    with torch.device("meta"):
        composed = headway.compose(PATH, {"dyhead.blocks": 1, "fpn.channels": 32}, num_classes=3)
    assert sizes(composed) == sizes(meta(PATH, blocks=1, channels=32, num_classes=3))
    assert composed.card.model == PATH
    assert composed.card.arguments == {"dyhead.blocks": 1, "fpn.channels": 32, "num_classes": 3}
    assert meta(PATH, **composed.card.arguments).card.num_classes == 3


@pytest.mark.parametrize("path", ["resnet18", "resnet18/", "/atss", "resnet18//atss", "resnet18/fpn/"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(HeadwayError, match=r"backbone/neck/\.\.\./head, as in resnet18/fpn/dyhead/atss; got"):
        headway.compose(path)


def test_a_path_may_go_without_a_neck_or_with_several():
    assert isinstance(meta("resnet18/project/detr").neck, nn.Module)
    several = meta(PATH, blocks=1)
    assert [type(n).__name__ for n in several.neck] == ["FPN", "DyHead"]
    with torch.device("meta"):
        bare = headway.compose("csp_darknet/yolov4", num_classes=2)
    assert isinstance(bare.neck, nn.Identity)


# -------------------------------------------------------------------------------------------------- where one belongs
@pytest.mark.parametrize(
    ("path", "key", "found"),
    [
        (PATH, "blocks", [Place(2, "blocks")]),
        (PATH, "dyhead.blocks", [Place(2, "blocks")]),
        (PATH, "neck.blocks", [Place(2, "blocks")]),
        (PATH, "backbone.norm", [Place(0, "norm")]),
        (PATH, "resnet18.norm", [Place(0, "norm")]),
        (PATH, "timm.norm", [Place(0, "norm")]),
        (PATH, "fpn.norm", [Place(1, "norm")]),
        (PATH, "head.kernel", [Place(3, "kernel")]),
        (PATH, "input_size", [Place(-1, "input_size")]),
        (PATH, "align", [Place(-1, "align")]),
        ("csp_darknet/pan/yolor", "align", [Place(2, "align")]),
        ("csp_darknet/pan/yolor", "act", [Place(0, "act"), Place(1, "act"), Place(2, "act")]),
        ("csp_darknet/pan/yolor", "pan.act", [Place(1, "act")]),
    ],
)
def test_where_an_argument_belongs(path, key, found):
    assert places(split_path(path), key) == found


@pytest.mark.parametrize(
    ("path", "key", "reason"),
    [
        (PATH, "norm", r"'norm' belongs to several parts of resnet18/fpn/dyhead/atss: say backbone.norm or fpn.norm"),
        (PATH, "block", "resnet18/fpn/dyhead/atss has no argument 'block'; did you mean .*blocks"),
        (PATH, "dyhead.block", "has no argument 'dyhead.block'; did you mean .*dyhead.blocks"),
        (PATH, "fpn.blocks", "has no argument 'fpn.blocks'; did you mean .*dyhead.blocks"),
        (PATH, "head.align", "has no argument 'head.align'"),
        (PATH, "zzzzzzzzz", "`headway models resnet18/fpn/dyhead/atss` lists all"),
        (PATH, "inputs", "has no argument 'inputs'"),
        (PATH, "head.num_classes", "has no argument 'head.num_classes'"),
    ],
)
def test_an_argument_of_no_or_several_parts_is_refused(path, key, reason):
    with pytest.raises(HeadwayError, match=reason):
        places(split_path(path), key)


def test_a_shared_argument_reaches_every_part_and_a_dotted_one_its_own():
    model = meta("csp_darknet/pan/yolor", act="leaky", **{"pan.act": "mish"})
    kinds = {
        name: {type(m) for m in part.modules() if isinstance(m, (nn.LeakyReLU, nn.Mish, nn.SiLU))}
        for name, part in model.named_children()
    }
    assert (kinds["backbone"], kinds["neck"], kinds["head"]) == ({nn.LeakyReLU}, {nn.Mish}, {nn.LeakyReLU})


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "atss_r50_fnp"}, r"unknown model 'atss_r50_fnp'; did you mean atss_r50_fpn, .* or .*path of parts"),
        ({"name": "os.system"}, "unknown model 'os'"),
        ({"name": NAME, "block": 3}, f"{PATH} has no argument 'block'; did you mean .*blocks"),
        ({"name": NAME, "blocks": "six"}, r"dyhead\(blocks=...\) must be int, got 'six'"),
        ({"name": NAME, "blocks": True}, r"\(blocks=...\) must be int, got True"),
        ({"name": NAME, "scale": 1}, r"\(scale=...\) must be bool, got 1"),
        ({"name": NAME, "high_offset": "flatt"}, "must be .*'flat'.*got 'flatt'"),
        ({"name": NAME, "input_size": (320,)}, r"detector\(input_size=...\) must be tuple\[int, int\], got \(320,\)"),
        ({"name": NAME, "center_offset": float("nan")}, "must be float, got nan"),
        ({"name": NAME, "num_classes": 0}, r"num_classes must be a whole number in 1..65536, got 0"),
        ({"name": NAME, "num_classes": 2, "class_names": ["a"]}, "num_classes=2, but 1 class names"),
        ({"name": NAME, "class_names": []}, "num_classes must be a whole number in 1..65536, got 0"),
        *(
            ({"name": NAME, "num_classes": n}, rf"must be a whole number in 1..65536, got {n!r}")
            for n in ("2", 2.0, True)
        ),
        *(({"name": n}, r"named by a text, as in resnet18/.*; got") for n in (None, 3, ["resnet18"])),
        ({"name": NAME, "backbone": 5}, "backbone must be the name of one, got 5"),
        ({"name": PATH, "fpn.channels": 0}, r"fpn\(channels=...\) must be from 1 to 65536, got 0"),
        ({"name": "resnet18/upsample/ttfnet", "planes": [8, 0, 8]}, r"must be from 1 to 65536, got \(8, 0, 8\)"),
        (
            {"name": PATH, "strides": [16, 8]},
            "maps of stride 2, 4, 8, 16, 32, not .16, 8.: set backbone.strides to some",
        ),
        ({"name": "csp_darknet/pan/yolov4", "strides": [5]}, "backbone csp has maps of stride 4, 8, 16, 32, not"),
        ({"name": NAME, "class_names": "cell"}, "class_names must be a list of names, got the text 'cell'"),
        ({"name": NAME, "pretrained": True}, "no published checkpoint of its own: name a tag"),
        ({"name": PATH, "pretrained": "best.safetensors"}, "no published .*: name a tag, .*opened by headway.load"),
        ({"name": NAME, "blocks": 10**9}, r"\(blocks=...\) must be from 0 to 64, got 1000000000"),
        ({"name": NAME, "tower_depth": 10**9}, "must be from 0 to 64"),
        ({"name": NAME, "channels": 10**9}, "must be from 1 to 65536"),
        ({"name": NAME, "num_classes": 10**9}, "must be a whole number in 1..65536"),
        ({"name": NAME, "input_size": (320, 10**9)}, "must be from 1 to 65536"),
        ({"name": NAME, "kernel": -3}, "must be from 0 to 65536, got -3"),
        ({"name": NAME, "backbone": "resnet81"}, "there is no backbone 'resnet81'; did you mean .*resnet18"),
        ({"name": "resnet18/fpn/dyhed/atss"}, "there is no neck 'dyhed'; did you mean dyhead"),
        ({"name": "resnet18/atss/fpn"}, "'atss' is a head, not a neck"),
        ({"name": PATH, "extra": "on_top"}, "must be .*'on_input'.*got 'on_top'"),
    ],
)
def test_wrong_requests_are_refused_with_what_to_do(call, reason):
    with pytest.raises(HeadwayError, match=reason):
        meta(**call)


def test_a_list_is_taken_where_a_tuple_is_meant():
    assert meta(NAME, input_size=[256, 512]).card.input_size == (256, 512)
    assert meta(NAME, dcn="c5").card.arguments == {"dcn": "c5"}
    assert sizes(meta(NAME, dcn=["c5"])) == sizes(meta(NAME, dcn="c5")) != sizes(meta(NAME))


# ------------------------------------------------------------------------------------------ what parts ask of others
def test_a_head_asks_for_its_maps_and_the_caller_has_the_last_word():
    """Five levels for ATSS from strides 8 to 32, five for Faster R-CNN from 4 to 64."""
    dense, regions = meta("resnet18/fpn/atss"), meta("resnet18/fpn/faster_rcnn")
    assert dense.backbone.strides == (8, 16, 32)
    assert dense.neck.levels.strides == (8, 16, 32, 64, 128)
    assert regions.backbone.strides == (4, 8, 16, 32)
    assert (regions.neck.levels.strides, regions.neck.extra) == ((4, 8, 16, 32, 64), "max_pool")
    own = meta("resnet18/fpn/atss", levels=4, extra="on_input", strides=(16, 32))
    assert (own.neck.levels.strides, own.neck.extra) == ((16, 32, 64, 128), "on_input")


def test_the_nearest_part_behind_decides():
    """`project` reads one map of stride 32, although the head behind it, without a neck, would read three."""
    assert meta("resnet18/project/detr").backbone.strides == (32,)
    assert meta("resnet18/level_projection/detr").backbone.strides == (8, 16, 32)


def test_a_neck_in_front_has_a_say_in_the_head():
    """Behind a Dynamic Head no tower, unless one is asked for."""
    assert len(meta("resnet18/fpn/atss").head.cls_tower) == 4
    assert len(meta(PATH).head.cls_tower) == 0
    assert len(meta(PATH, tower_depth=2).head.cls_tower) == 2


def test_pan_gets_one_width_where_it_is_read_by_what_needs_one():
    assert set(meta("csp_darknet/pan/atss").neck.levels.channels) == {256}
    assert meta("csp_darknet/pan/yolov4").neck.levels.channels == (128, 256, 512)


@pytest.mark.parametrize(
    ("path", "arguments", "reason"),
    [
        ("resnet18/fpn/ttfnet", {}, "fpn/ttfnet: ttfnet reads one map of stride 4, got .*: put `upsample` in front"),
        ("resnet18/atss", {}, r"atss reads maps of one width, got strides 8, 16, 32 with 128, 256, 512 .*put `fpn`"),
        ("resnet18/dyhead/atss", {}, "dyhead reads maps of one width, .*put `fpn`"),
        (
            "csp_darknet/pan/dyhead/atss", {"pan.channels": None},
            r"dyhead reads maps of one width, got .*behind `pan` set pan\.channels",
        ),
        (
            "resnet18/fpn/atss", {"backbone.strides": (8, 32)},
            r"fpn reads maps that halve from level to level, got strides 8, 32 .*backbone\.strides=8,16,32",
        ),
        ("resnet18/fpn/atss", {"backbone.strides": (32,)}, "fpn joins at least 2 maps, .*`simple_pyramid`"),
        ("resnet18/fpn/atss", {"backbone.strides": (8, 64)}, r"resnet18 has maps of stride 2, 4, 8, 16, 32, not \(8,"),
        ("resnet18/project/detr", {"backbone.strides": (16, 32)}, "project reads one map, got .*`level_projection`"),
        ("resnet18/fpn/atss", {"levels": 2}, "fpn gives 2 maps, got strides 8, 16, 32 .*: set fpn.levels=3"),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit_are_refused_with_the_remedy(path, arguments, reason):
    with pytest.raises(HeadwayError, match=reason):
        meta(path, **arguments)


def test_the_remedies_work():
    for path, arguments in (
        ("resnet18/upsample/ttfnet", {}),
        ("resnet18/fpn/upsample/ttfnet", {"fpn.levels": 4}),
        ("csp_darknet/pan/dyhead/atss", {"pan.channels": 64, "dyhead.blocks": 1}),
        ("resnet18/simple_pyramid/atss", {"backbone.strides": (16,)}),
    ):
        assert meta(path, **arguments).card.model == path


# -------------------------------------------------------------------------------------------------------------- cards
def test_class_names_and_their_number():
    model = meta(NAME, class_names=["cell", "platelet"], blocks=1, channels=32)
    assert model.card.class_names == ("cell", "platelet")
    assert model.card.category_ids == ()
    assert model.head.num_classes == 2
    assert model.card.arguments == {"num_classes": 2, "blocks": 1, "channels": 32}


def test_coco_is_the_default_and_other_numbers_get_plain_names():
    assert meta(NAME).card.class_names[:2] == ("person", "bicycle")
    assert meta(NAME).card.category_ids[-1] == 90
    assert meta(NAME, num_classes=3).card.class_names == ("class0", "class1", "class2")


def test_a_heads_fields_of_the_card_go_with_it():
    assert meta("resnet18/fpn/atss").card.nms_iou == 0.6
    assert meta("resnet18/project/detr", queries=7).card.max_detections == 7
    yolo = meta("csp_darknet/pan/yolov4").card
    assert (yolo.std, yolo.pad_multiple) == ((255.0, 255.0, 255.0), 32)


def test_the_backbone_of_a_name_or_path_may_be_replaced():
    named, path = meta(NAME, backbone="resnet34", blocks=1), meta(PATH, backbone="resnet34", blocks=1, channels=128)
    assert named.backbone.name == path.backbone.name == "resnet34"
    assert sizes(named) == sizes(path)
    assert named.card.arguments == {"backbone": "resnet34", "blocks": 1}
    assert path.card.model == "resnet34/fpn/dyhead/atss"
    assert plan_of(NAME, {"backbone": "resnet34"}).path == "resnet34/fpn/dyhead/atss"


def test_arguments_show_the_names_and_what_the_path_makes_of_the_defaults():
    arguments = builder_arguments(NAME)
    assert arguments["dyhead.blocks"].default == 2
    assert arguments["fpn.channels"].default == 128
    assert arguments["input_size"].default == (320, 320)
    assert arguments["atss.tower_depth"].default == 0
    assert arguments["backbone.strides"].default == (8, 16, 32)
    assert "align" in arguments
    assert builder_arguments("atss_r50_fpn")["atss.tower_depth"].default == 4
    assert builder_arguments(PATH)["dyhead.blocks"].default == 6
    yolor = builder_arguments("yolor_csp")
    assert yolor["yolor.align"].default == "add"
    assert "align" not in yolor


@pytest.mark.parametrize("name", [PATH, "csp_darknet/pan/yolor", "resnet18/fpn/faster_rcnn"])
def test_every_listed_argument_is_taken(name):
    """Each default given by its listed name builds the same network."""
    arguments = {key: option.default for key, option in builder_arguments(name).items()}
    assert sizes(meta(name, **arguments)) == sizes(meta(name))


# ----------------------------------------------------------------------------------------------------------- implicit
def test_implicit_values_by_path():
    model = meta("resnet18/fpn/atss", align="add", refine="mul", channels=32)
    values = [m for m in model.head.modules() if isinstance(m, Implicit)]
    assert len(values) == 2 * 3  # before and after class, box and centerness
    assert model.card.arguments == {"align": "add", "refine": "mul", "implicit": "vector", "channels": 32}
    assert sizes(meta(model.card.model, **model.card.arguments)) == sizes(model)
    with pytest.raises(HeadwayError, match=r"detector\(refine=...\) must be .*got 'concat'"):
        meta("resnet18/fpn/atss", refine="concat")


# ---------------------------------------------------------------------------------------------------------- own parts
def test_own_parts_take_lists_and_integers_of_any_size(own_names):
    """Bounds protect from files and typing errors in headway's parts; the author of a part knows its numbers."""
    taken = {}

    @headway.register_neck("own_neck")
    def own_neck(inputs: Levels, *, sides: list[int] = [1], seed: int = 0) -> nn.Module:  # noqa: B006
        taken.update(sides=sides, seed=seed)
        neck = nn.Identity()
        neck.levels = inputs
        return neck

    meta("resnet18/fpn/own_neck/atss", sides=(3, 100_000), seed=-(10**9))
    assert taken == {"sides": [3, 100_000], "seed": -(10**9)}
    meta("resnet18/fpn/own_neck/atss", sides=[5])
    assert taken["sides"] == [5]
    with pytest.raises(HeadwayError, match=r"own_neck\(sides=...\) must be list\[int\], got \('a',\)"):
        meta("resnet18/fpn/own_neck/atss", sides=["a"])


def test_an_own_head_asks_and_brings_its_card(own_names):
    class Head(nn.Conv2d):
        card = {"max_detections": 7}  # noqa: RUF012

    @headway.register_head("own_head", wants={"strides": (16, 32), "fpn.levels": 2})
    def own_head(inputs: Levels, *, num_classes: int) -> nn.Module:
        return Head(inputs.channels[0], num_classes, 1)

    model = meta("resnet18/fpn/own_head", num_classes=4)
    assert model.neck.levels == Levels((16, 32), (256, 256))
    assert model.card.max_detections == 7
    assert model.head.out_channels == 4


def test_a_part_without_levels_is_refused(own_names):
    @headway.register_neck("mute")
    def mute(inputs: Levels) -> nn.Module:
        return nn.Identity()

    with pytest.raises(HeadwayError, match=r"neck 'mute' must give its module `levels`, a headway.Levels; got None"):
        meta("resnet18/mute/atss")


# -------------------------------------------------------------------------------------------------------- new classes
def test_other_classes_keep_every_weight_that_does_not_depend_on_them():
    torch.manual_seed(0)
    model = headway.create_model("resnet18/fpn/atss", num_classes=5, channels=16, tower_depth=1)
    fresh, rebuilt = with_classes(model, ["a", "b"])
    assert sorted(rebuilt) == ["head.cls.bias", "head.cls.weight"]
    assert fresh.card.class_names == ("a", "b")
    assert fresh.card.arguments["num_classes"] == 2
    state, old = fresh.state_dict(), model.state_dict()
    assert state["head.cls.bias"].shape == (2,)
    assert all(torch.equal(state[k], old[k]) for k in old if k not in rebuilt)
    hand_made = headway.Detector(model.backbone, model.neck, model.head, class_names=list("abcde"))
    with pytest.raises(HeadwayError, match="put together by hand cannot be built anew for other classes"):
        with_classes(hand_made, ["a"])


def test_published_weights_for_other_classes_keep_all_but_the_class_predictors(tmp_path, caplog):
    """A file with torchvision's and mmdetection's names for 80 classes, asked for two."""
    torch.manual_seed(0)
    arguments = {"backbone": "resnet18", "channels": 16, "tower_depth": 1}
    published = headway.create_model("retinanet_r50_fpn.mmdet", **arguments)
    path = tmp_path / "published.pth"
    torch.save({"state_dict": mmdet_names(published)}, path)
    caplog.set_level(logging.INFO, logger="headway")
    model = headway.create_model("retinanet_r50_fpn.mmdet", pretrained=path, class_names=["cell", "dot"], **arguments)
    assert model.card.class_names == ("cell", "dot")
    assert model.card.category_ids == ()
    assert model.card.metrics == {}
    assert (model.card.channels, model.card.mean) == (published.card.channels, published.card.mean)
    old = published.state_dict()
    changed = [k for k, v in model.state_dict().items() if v.shape != old[k].shape or not torch.equal(v, old[k])]
    assert sorted(changed) == ["head.cls.bias", "head.cls.weight"]
    (line,) = [r.getMessage() for r in caplog.records if "start anew" in r.getMessage()]
    assert line.startswith("retinanet_r50_fpn.mmdet knows 80 other classes: head.cls.")
    assert "head.cls.weight" in line
    assert "head.cls.bias" in line
    assert "for the 2 given" in line
    same = headway.create_model("retinanet_r50_fpn.mmdet", pretrained=path, **arguments)
    assert all(torch.equal(v, old[k]) for k, v in same.state_dict().items())


def test_the_shipped_counts_are_those_of_the_networks():
    """Of every sixteenth model, here; tools/count_models.py writes the file, and every name is in it."""
    from importlib.resources import files

    from headway.commands.models import COUNTS
    from headway.profile import count_named

    shipped = json.loads((files("headway") / "assets" / COUNTS).read_text())
    assert sorted(shipped) == headway.list_models()
    for name in headway.list_models()[::16]:
        assert count_named(name) == shipped[name], name


def test_a_count_reads_no_weights():
    """As `compare` asks for it, of rows that begin with ImageNet weights: a file would be read, and is not."""
    from headway.profile import count_named

    given = {"num_classes": 3, "fpn.channels": 32}
    plain = count_named("resnet18/fpn/atss", (64, 64), **given)
    assert count_named("resnet18/fpn/atss", (64, 64), **given, **{"backbone.weights": "no/such.pth"}) == plain


def test_no_part_has_more_than_twenty_arguments():
    for kind in registry.KINDS:
        for name in headway.list_parts(kind):
            build = registry.find_part(kind, name).build
            assert len(inspect.signature(build).parameters) <= 20, name


@pytest.mark.parametrize("names", [[1, 2], ["a", None], ["a", "a"]])
def test_class_names_are_different_texts(names):
    with pytest.raises(HeadwayError, match="class_names must be different texts"):
        headway.create_model("resnet18/project/detr", class_names=names)


def test_a_checkpoint_never_fetches_weights_of_a_backbone(tmp_path):
    model = headway.create_model("resnet18/upsample/ttfnet", num_classes=2)
    model.card.arguments |= {"resnet18.weights": "/etc/hostname", "timm.weights": True}
    headway.load(headway.save(model, tmp_path / "m.safetensors"))


def test_published_weights_other_classes_and_implicit_values_at_once(monkeypatch, tmp_path):
    from headway.models.weights import find_row

    monkeypatch.setattr(type(find_row("retinanet_r50_fpn", "mmdet")), "load", lambda row, model, path=None: None)
    model = headway.create_model("retinanet_r50_fpn.mmdet", pretrained=True, class_names=["a", "b"], align="add")
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert again.card.class_names == ("a", "b")
    assert set(again.state_dict()) == set(model.state_dict())
    assert any(isinstance(m, Implicit) for m in again.head.modules())
