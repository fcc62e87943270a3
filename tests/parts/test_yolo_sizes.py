"""Published sizes of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR, in both forms, on the meta device."""

import pytest
import torch

import headway
from headway.profile import count_flops, count_macs, count_parameters


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("yolov4_csp", {}, 52_921_437),
        ("yolov4_csp", {"form": "yaml"}, 52_924_765),
        ("yolov4_csp", {"stem": "reorg"}, 52_908_989),
        ("yolor_csp", {}, 52_923_994),
        ("yolor_csp", {"stem": "reorg"}, 52_911_546),
        ("yolor_csp_x", {}, 99_754_058),
        ("yolor_p6", {}, 37_265_016),
        ("yolor_p6", {"align": None, "refine": None}, 37_262_204),
        ("yolor_p6", {"form": "yaml"}, 37_270_264),
        ("yolor_w6", {}, 79_873_400),
        ("yolor_w6", {"form": "yaml"}, 79_880_952),
        ("yolor_e6", {"form": "cfg"}, 115_899_960),
        ("yolor_e6", {}, 115_909_400),
        ("yolor_d6", {"form": "cfg"}, 151_773_240),
        ("yolor_d6", {}, 151_782_680),
        ("yolov4_p5", {}, 70_834_012),
        ("yolov4_p6", {}, 127_590_576),
        ("yolov4_p6", {"form": "cfg"}, 127_585_200),
        ("yolov4_p7", {}, 287_575_580),
        ("yolov4_p7", {"form": "cfg"}, 287_566_300),
    ],
)
def test_published_parameter_counts(name, arguments, parameters):
    with torch.device("meta"):
        assert count_parameters(headway.create_model(name, **arguments)) == parameters


@pytest.mark.parametrize(
    ("name", "arguments", "size", "flops"),
    [
        ("yolov4_csp", {"stem": "reorg", "act": "mish"}, 640, 117.5172952),
        ("yolov4_csp", {}, 640, 120.637),
        ("yolor_csp_x", {}, 640, 222.430),
        ("yolor_p6", {}, 1280, 326.2561624),
        ("yolor_p6", {"form": "yaml"}, 1280, 326.329788),
        ("yolor_w6", {}, 1280, 453.893),
        ("yolor_w6", {"form": "yaml"}, 1280, 453.975),
        ("yolor_e6", {"form": "cfg"}, 1280, 683.952),
        ("yolor_e6", {}, 1280, 684.054),
        ("yolor_d6", {"form": "cfg"}, 1280, 936.691),
        ("yolor_d6", {}, 1280, 936.794),
        ("yolov4_p6", {"form": "cfg"}, 1280, 719.273),
        ("yolov4_p7", {"form": "cfg"}, 1536, 1640.77),
    ],
)
def test_published_operations(name, arguments, size, flops):
    """In 10^9, to the digits that are known."""
    with torch.device("meta"):
        model = headway.create_model(name, **arguments)
    digits = len(str(flops).partition(".")[2])
    assert round(count_flops(model, (size, size)) / 1e9, digits) == flops


def test_implicit_values_cost_nothing():
    with torch.device("meta"):
        plain, implicit = (headway.create_model(name, depth=0.33, width=0.25) for name in ("yolov4_csp", "yolor_csp"))
    assert count_macs(implicit, (64, 64)) == count_macs(plain, (64, 64))
    assert count_flops(implicit, (64, 64)) == count_flops(plain, (64, 64))
