"""Sampling points against points worked out tap by tap, and against what the layers' gradients say they read."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.errors import DataError, HeadwayError
from headway.layers.deform import DeformableConv2d, deform_conv2d
from headway.types import Detections
from headway.view.deform import SamplingLayer, record, sampling_points, to_dict

FIRST, SECOND = "backbone.body.layer3.0.conv2", "backbone.body.layer3.1.conv2"  # strides 8 -> 16, and 16 -> 16
PHOTO = (torch.rand(3, 128, 192, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


def make(version: int = 1, **arguments: object) -> headway.Detector:
    """A bottleneck network whose photographs of 128 x 192 go in as they are."""
    torch.manual_seed(0)
    settings = {"backbone": "resnet26", "dcn": "c4", "input_size": (128, 192), "channels": 32} | arguments
    return headway.create_model("retinanet_r18_fpn", num_classes=2, dcn_version=version, **settings).eval()


def constant(model: nn.Module, name: str, dy: float, dx: float, logit: float = 0.0) -> None:
    """The same offset at all taps and places of a layer."""
    layer = model.get_submodule(name)
    with torch.no_grad():
        layer.conv_offset.bias[0 : 2 * layer.points : 2] = dy
        layer.conv_offset.bias[1 : 2 * layer.points : 2] = dx
        layer.conv_offset.bias[2 * layer.points :] = logit


def taps() -> list[tuple[int, int]]:
    return [(ky - 1, kx - 1) for ky, kx in product(range(3), range(3))]


def close(points: Tensor, expected: list[tuple[float, float]]) -> None:
    """The same points in any order."""
    assert len(points) == len(expected)
    ours, theirs = sorted(map(tuple, points.tolist())), sorted(expected)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-3, rtol=0)


def test_one_layer_of_stride_1_is_the_shifted_grid():
    """Cell (4, 6) of stride 16 has its centre at (x, y) = (96.5, 64.5); an offset of one cell down moves 16 pixels."""
    model = make()
    constant(model, SECOND, 1.0, 0.0)
    found = sampling_points(model, PHOTO, (99.0, 60.0), [SECOND])
    assert found.center == (96.5, 64.5)
    assert found.layers == (SECOND,)
    close(found.points, [(96.5 + 16 * kx, 64.5 + 16 * (ky + 1)) for ky, kx in taps()])
    assert found.weights.tolist() == [1.0] * 9
    assert found.frame == (80.5, 48.5, 112.5, 80.5)


def test_one_layer_of_stride_2_reads_the_finer_map():
    """Cell (4, 6) of stride 16 reads cells 2 * 4 and 2 * 6 of stride 8, and their neighbours 8 pixels away."""
    model = make()
    constant(model, FIRST, 0.5, -1.0)
    found = sampling_points(model, PHOTO, (96.0, 64.0), [FIRST])
    close(found.points, [(8 * (12 + kx - 1.0) + 0.5, 8 * (8 + ky + 0.5) + 0.5) for ky, kx in taps()])


def test_two_layers_multiply_points_and_masks():
    """81 points: 2 * (4 + ky + 0.25) - 1 + ky' + 1 + 0.5 and so on, masks 1 / (1 + e) and e / (1 + e) multiplied."""
    model = make(version=2)
    constant(model, SECOND, 0.25, -0.5, logit=-1.0)
    constant(model, FIRST, 0.5, 1.0, logit=1.0)
    found = sampling_points(model, PHOTO, (96.0, 64.0), 2)
    assert found.layers == (SECOND, FIRST)
    rows = [2 * (4 + ky + 0.25) + kky + 0.5 for ky in (-1, 0, 1) for kky in (-1, 0, 1)]
    columns = [2 * (6 + kx - 0.5) + kkx + 1.0 for kx in (-1, 0, 1) for kkx in (-1, 0, 1)]
    close(found.points, [(8 * x + 0.5, 8 * y + 0.5) for x in columns for y in rows])
    e = 2.718281828
    assert found.weights.tolist() == pytest.approx([e / (1 + e) ** 2] * 81, rel=1e-4)
    assert found.frame == (8 * (10 - 1) + 0.5, 8 * (6 - 1) + 0.5, 8 * (14 + 1) + 0.5, 8 * (10 + 1) + 0.5)


def test_a_larger_photograph_has_its_points_in_its_own_pixels():
    model = make()
    big = PHOTO.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small, large = sampling_points(model, PHOTO, (96.0, 64.0)), sampling_points(model, big, (192.0, 128.0))
    assert large.layers == (SECOND, FIRST)  # all there are
    torch.testing.assert_close(large.points, 2 * small.points)


def test_points_off_the_map_weigh_what_the_map_gives():
    """The corner cell (0, 0): a row and a column of taps at -1 read zeros; shifted by a quarter cell inwards they lie
    three quarters outside."""
    model = make()
    plain = sampling_points(model, PHOTO, (0.0, 0.0), [SECOND])
    assert sorted(plain.weights.tolist()) == [0.0] * 5 + [1.0] * 4
    constant(model, SECOND, 0.25, 0.25)
    weights = sampling_points(model, PHOTO, (0.0, 0.0), [SECOND]).weights
    assert sorted(weights.tolist()) == pytest.approx([0.0625] + [0.25] * 4 + [1.0] * 4)


def test_offset_groups_have_points_of_their_own():
    model = make(dcn_groups=2)
    with torch.no_grad():
        model.get_submodule(SECOND).conv_offset.bias[18::2] = 2.0  # the second group looks two cells down
    found = sampling_points(model, PHOTO, (96.0, 64.0), [SECOND])
    close(found.points, [(96.5 + 16 * kx, 64.5 + 16 * (ky + dy)) for dy in (0, 2) for ky, kx in taps()])


def test_offsets_between_cells_are_interpolated():
    """dy = 0.1 y, dx = 0.2 x + 0.1 y over an 8 x 10 map are exact under bilinear interpolation: at (2.5, 3.25)."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    layer = SamplingLayer(
        "any", torch.stack([0.1 * y, 0.2 * x + 0.1 * y])[:, None], (0.05 * x)[None], torch.tensor([[-1.0], [1.0]]),
        torch.tensor([[2], [2]]), torch.tensor([[16], [20]]), 8, 16, torch.zeros(0), True,
    )  # fmt: skip
    points, weights = layer.sample(torch.tensor([[2.5], [3.25]]), torch.tensor([0.5]))
    assert points[:, 0].tolist() == pytest.approx([5.0 - 1 + 0.25, 6.5 + 1 + 0.65 + 0.25])
    assert weights.tolist() == pytest.approx([0.5 * 0.05 * 3.25])


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_the_points_are_what_the_layer_reads(name):
    """The gradient of one output cell is not zero at exactly the (up to four) cells around each point."""
    model = make(version=2, dcn_groups=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, DeformableConv2d):
                module.conv_offset.bias.normal_(0, 1.5, generator=generator)
    layer = model.get_submodule(name)
    taken: list[tuple[Tensor, ...]] = []
    hook = layer.conv.register_forward_hook(lambda _, inputs, __: taken.append(inputs))
    found = sampling_points(model, PHOTO, (101.0, 70.0), [name])
    hook.remove()
    x, offset, mask = (t.detach() for t in taken[0])
    x.requires_grad_()
    conv = layer.conv
    output = deform_conv2d(x, offset, conv.weight, None, conv.stride, conv.padding, conv.dilation, mask)
    output[0, :, 4, 6].sum().backward()
    read = x.grad[0].abs().amax(0) > 0
    stride = 128 // x.shape[2]
    expected = torch.zeros_like(read)
    for px, py in ((found.points - 0.5) / stride).tolist():
        for row, column in product(range(read.shape[0]), range(read.shape[1])):
            expected[row, column] |= abs(row - py) < 1 - 1e-4 and abs(column - px) < 1 - 1e-4
    assert torch.equal(read, expected)


# ------------------------------------------------------------------------------------------------- layers and choices
def test_dynamic_head_has_a_layer_for_each_level_and_neighbour():
    torch.manual_seed(0)
    model = headway.create_model("atss_r18_fpn_dyhead", num_classes=2, channels=32, input_size=(128, 192)).eval()
    recording = record(model, PHOTO)
    assert len(recording.layers) == 2 * (5 + 4 + 4)
    low = recording.layers["neck.1.blocks.0.spatial.low.conv@32"]
    assert (low.in_stride, low.out_stride) == (16, 32)
    names = [f"neck.1.blocks.{i}.spatial.mid.conv@8" for i in (1, 0)]
    assert [layer.name for layer in recording.chain(2)] == names
    assert [layer.name for layer in recording.chain()] == names[:1]
    found = recording.sample((96.0, 64.0), recording.chain(2))
    close(found.points, [(96.5 + 8 * (a + c), 64.5 + 8 * (b + d)) for a, b in taps() for c, d in taps()])
    with pytest.raises(HeadwayError, match=r"layers must be from 1 to 2, .* got 3"):
        recording.chain(3)


def test_layers_side_by_side_are_not_composed():
    """RepPoints' two deformable layers of a level share their offsets: one follows the other in time only."""
    torch.manual_seed(0)
    model = headway.create_model("reppoints_r18_fpn", num_classes=2, input_size=(128, 192)).eval()
    recording = record(model, PHOTO)
    assert len(recording.layers) == 2 * 5
    assert len(recording.chain()) == 1
    with pytest.raises(HeadwayError, match="layers must be from 1 to 1"):
        recording.chain(2)


def test_backbones_come_before_other_layers():
    model = headway.create_model(
        "retinanet_r18_fpn_dyhead", num_classes=2, channels=32, blocks=1, dcn="c5", input_size=(128, 192)
    )
    chain = record(model.eval(), PHOTO).chain()
    assert [layer.name for layer in chain] == [f"backbone.body.layer4.{i}.conv2" for i in (1, 0)]


def test_wrong_requests_say_what_there_is():
    recording = record(make(), PHOTO)
    with pytest.raises(
        HeadwayError, match=rf"no deformable layer that ends in '{FIRST[:-1]}'; did you mean {FIRST} .*There are"
    ):
        recording.chain([FIRST[:-1]])
    with pytest.raises(HeadwayError, match=r"2 deformable layers end in 'conv2'; did you mean .* There are .*, .*"):
        recording.chain(["conv2"])
    assert recording.chain(["layer3.0.conv2", SECOND]) == recording.chain(2)
    with pytest.raises(HeadwayError, match="at most 4 layers can be composed"):
        record(make(dcn=("c2", "c3", "c4")), PHOTO).chain(5)
    for pixel in ((192.0, 5.0), (-1.0, 5.0), (5.0, 128.0)):
        with pytest.raises(HeadwayError, match=r"lies outside the photograph of 192 x 128"):
            recording.sample(pixel, recording.chain())
    with pytest.raises(HeadwayError, match="retinanet_r18_fpn has no deformable layer; train one with --set dcn=c4,c5"):
        record(make(dcn=()), PHOTO)
    with pytest.raises(DataError, match=r"must be of the form tensor \[3, H, W\]"):
        record(make(), PHOTO[:2])


def test_nothing_is_left_on_the_model():
    model = make()
    record(model, PHOTO)
    assert not any(m._forward_hooks for m in model.modules())


# --------------------------------------------------------------------------------------------------------- statistics
def test_lengths_of_offsets_in_pixels_of_the_photograph():
    """An offset of (3, 4) cells of 16 pixels is 80 long; half of the cells get 0 by hand, inside of the one box."""
    model = make()
    constant(model, SECOND, 3.0, 4.0)
    recording = record(model, PHOTO)
    numbers = recording.offset_statistics(recording.layers[SECOND])
    assert numbers["stride"] == 16
    assert numbers["mean"] == pytest.approx(80, rel=1e-5)
    assert numbers["std"] == pytest.approx(0, abs=1e-3)
    assert numbers["std_inside"] is None
    layer = recording.layers[SECOND]
    offset = layer.offset.clone()
    offset[:, :, :, ::2] = 0.0  # columns of cells at x = 0.5, 32.5, 64.5, ...
    boxes, scores = torch.tensor([[0.0, 0.0, 16.0, 128.0], [0.0, 0.0, 192.0, 128.0]]), torch.tensor([0.9, 0.1])
    found = Detections(boxes, scores, torch.zeros(2, dtype=torch.int64), ("a", "b"))
    scene = replace(recording.scene, detections=found)
    changed = replace(recording, scene=scene, layers={SECOND: replace(layer, offset=offset)})
    numbers = changed.offset_statistics(changed.layers[SECOND])
    assert (numbers["mean"], numbers["std"]) == (pytest.approx(40, rel=1e-5), pytest.approx(40, rel=1e-5))
    assert numbers["std_inside"] == pytest.approx(0, abs=1e-3)  # the first column alone: the weak box does not count
    assert numbers["std_outside"] == pytest.approx(80 * (5 * 6) ** 0.5 / 11, rel=1e-4)  # five columns of 0, six of 80
    assert changed.scene.default_pixel() == (8.0, 64.0)
    assert recording.scene.default_pixel() == (96.0, 64.0)


def test_numbers_for_a_file():
    model = make()
    recording = record(model, PHOTO)
    found = recording.sample((96.0, 64.0), recording.chain(1))
    numbers = to_dict(recording, [found])
    assert numbers["size"] == [192, 128]
    assert [row["name"] for row in numbers["layers"]] == [SECOND]
    (row,) = numbers["pixels"]
    assert (row["pixel"], row["center"], row["layers"]) == ([96.0, 64.0], [96.5, 64.5], [SECOND])
    assert len(row["points"]) == len(row["weights"]) == 9
    close(torch.tensor(row["points"]), [tuple(p) for p in found.points.tolist()])
