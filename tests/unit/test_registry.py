"""The names of parts: what may be registered, what is found, and what is known of a part's arguments."""

from typing import Literal, NamedTuple

import pytest
from torch import nn

import headway
from headway import registry
from headway.errors import HeadwayError
from headway.registry import find_part, list_parts, register_variant, registered_here
from headway.types import Levels


class Pooling(NamedTuple):
    """side: of the window.
    mode: how it is pooled,
        by default the largest."""

    side: int = 2
    mode: Literal["max", "mean"] = "max"


def own_neck(inputs: Levels, *, width: int = 8, depth: int = 1, pooling: Pooling = Pooling()) -> nn.Module:  # noqa: B008
    """A neck of nothing. It has a second sentence.

    width, depth: of its
        layers.

    Differs: in everything.
    Raises: nothing.
    """
    neck = nn.Identity()
    neck.levels = inputs
    return neck


@pytest.fixture(autouse=True)
def _own_names(monkeypatch):
    """What a test registers is gone after it."""
    list_parts()
    monkeypatch.setattr(registry, "_PARTS", dict(registry._PARTS))


# ---------------------------------------------------------------------------------------------------------- finding
def test_parts_are_listed_by_kind_and_glob():
    heads, necks = headway.list_parts("head"), headway.list_parts("neck")
    assert heads == sorted(heads)
    assert {"atss", "fcos", "faster_rcnn", "yolor"} <= set(heads)
    assert {"fpn", "bifpn", "dyhead"} <= set(necks)
    assert not set(heads) & set(necks)
    assert set(heads) | set(necks) <= set(headway.list_parts())
    assert headway.list_parts("neck", "dyhead*") == ["dyhead", "dyhead_upsample"]
    assert headway.list_parts("head", "dyhead*") == []


def test_a_family_of_backbones_is_found_by_each_name_and_listed_under_none():
    assert find_part("backbone", "resnet18") is find_part("backbone", "convnext_tiny")
    assert find_part("backbone", "csp_darknet").name == "csp_darknet"
    assert not {"timm", "resnet18"} & set(list_parts())
    assert find_part("backbone", "swin_nano_patch4_window7").name == "timm"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("head", "ats", "there is no head 'ats'; did you mean .*atss"),
        ("neck", "dyhed", "there is no neck 'dyhed'; did you mean dyhead"),
        ("backbone", "resnet81", "there is no backbone 'resnet81'; did you mean .*resnet18"),
        ("backbone", "csp_darkent", "there is no backbone 'csp_darkent'; did you mean .*csp_darknet"),
        ("head", "fpn", "'fpn' is a neck, not a head: a path is backbone/neck/.../head"),
        ("neck", "atss", "'atss' is a head, not a neck"),
        ("head", "zzzzzz", "there is no head 'zzzzzz'; `headway models` lists all"),
    ],
)
def test_an_unknown_part_is_refused_with_what_is_known(kind, name, reason):
    with pytest.raises(HeadwayError, match=reason):
        find_part(kind, name)


# ------------------------------------------------------------------------------------------------------ registering
def test_a_registered_part_is_found_and_is_not_headways():
    assert headway.register_neck("own_neck", shares=("depth",))(own_neck) is own_neck
    part = find_part("neck", "own_neck")
    assert (part.build, part.module, part.shares) == (own_neck, __name__, ("depth",))
    assert not registered_here(part)
    assert registered_here(find_part("neck", "fpn"))
    assert "own_neck" in list_parts("neck")


@pytest.mark.parametrize(("kind", "name"), [("neck", "fpn"), ("head", "faster_rcnn")])
def test_a_part_of_headway_cannot_be_replaced(kind, name):
    """Before the parts had a registry, the second of one name silently replaced the first."""
    kept = find_part(kind, name)
    register = headway.register_neck if kind == "neck" else headway.register_head
    with pytest.raises(HeadwayError, match=f"a {kind} called '{name}' is registered already, by {kept.module}"):
        register(name)(own_neck if kind == "neck" else own_head)
    assert find_part(kind, name) is kept


def own_head(inputs: Levels, *, num_classes: int, tower_depth: int = 0) -> nn.Module:
    return nn.Identity()


def test_the_same_part_may_be_registered_again_and_one_name_by_several_kinds():
    """A module that is run twice, as in a notebook; and names are apart by kind."""
    headway.register_neck("own")(own_neck)
    headway.register_neck("own")(own_neck)
    headway.register_head("own")(own_head)
    assert find_part("neck", "own").build is own_neck
    assert find_part("head", "own").build is own_head


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "a-b", "2d", "a b"])
def test_a_name_must_fit_into_a_path(name):
    with pytest.raises(HeadwayError, match="name must be letters, digits and underscores"):
        headway.register_neck(name)


def test_arguments_must_be_keyword_only_and_annotated():
    def positional(inputs: Levels, width: int): ...
    def bare(inputs: Levels, *, width=1): ...
    def swallowing(inputs: Levels, **options: int): ...

    for build in (positional, bare, swallowing):
        with pytest.raises(TypeError, match=r"own\(\w+\) must be keyword-only and annotated"):
            headway.register_neck("own")(build)
    assert "own" not in list_parts("neck")


def test_a_class_is_a_part():
    class Own(nn.Module):
        def __init__(self, inputs: Levels, *, width: int = 3) -> None:
            super().__init__()

    headway.register_neck("own_class")(Own)
    assert find_part("neck", "own_class").options["width"].default == 3


# -------------------------------------------------------------------------------------------------------- arguments
def test_options_are_the_arguments_with_the_fields_of_records():
    headway.register_neck("own_neck")(own_neck)
    part = find_part("neck", "own_neck")
    assert {name: (o.annotation, o.default, o.group) for name, o in part.options.items()} == {
        "width": (int, 8, None),
        "depth": (int, 1, None),
        "side": (int, 2, "pooling"),
        "mode": (Literal["max", "mean"], "max", "pooling"),
    }
    assert part.options["width"].meaning == part.options["depth"].meaning == "of its layers."
    assert part.options["mode"].meaning == "how it is pooled, by default the largest."
    assert part.summary == "A neck of nothing"
    assert part.grouped({"width": 1, "mode": "mean"}) == {"width": 1, "pooling": Pooling(2, "mean")}


def test_what_is_given_by_the_path_is_no_option():
    assert not {"inputs", "num_classes"} & set(find_part("head", "atss").options)
    assert not {"name"} & set(find_part("backbone", "resnet18").options)


def test_a_variant_has_its_own_defaults_and_text():
    headway.register_neck("own_neck")(own_neck)
    register_variant("neck", "own_deep", "own_neck", "A deep one. For tests.", depth=7, side=3)
    part = find_part("neck", "own_deep")
    assert {name: o.default for name, o in part.options.items()} == {"width": 8, "depth": 7, "side": 3, "mode": "max"}
    assert part.grouped({"depth": 2}) == {"depth": 2, "pooling": Pooling(3, "max")}
    assert part.summary == "A deep one"
    register_variant("neck", "own_wrong", "own_neck", "", colour=1)
    with pytest.raises(TypeError, match=r"own_neck has no arguments \['colour'\]"):
        _ = find_part("neck", "own_wrong").options


def test_every_part_and_every_argument_says_what_it_is():
    """`headway models PATH` prints both."""
    for kind in registry.KINDS:
        for name in list_parts(kind):
            part = find_part(kind, name)
            if not part.module.startswith("headway."):
                continue  # another test's
            assert part.summary, name
            assert all(option.meaning for option in part.options.values()), (
                name, [o.name for o in part.options.values() if not o.meaning],
            )  # fmt: skip
    assert all(option.meaning for option in find_part("backbone", "resnet18").options.values())
