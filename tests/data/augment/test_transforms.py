"""Boxes must move with their pixels: hand numbers, and painted rectangles found again in the output."""

import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from headway.data.augment.colour import ColourJitter, PhotometricDistortion, jitter_colour
from headway.data.augment.crop import IoUCrop, SizeCrop, ZoomCrop
from headway.data.augment.labelled import aligned_with_boxes
from headway.data.augment.mosaic import join
from headway.data.augment.presets import PRESETS, train_transform, warn_unused
from headway.data.augment.resize import KeepRatioResize, eval_transform, fit_size, resize_affine
from headway.train.recipes import RECIPES, recipe
from headway.types import Detections, Meta


def sample(boxes, height=40, width=60, paint=False):
    """A grey picture (painted white inside the boxes) and a target whose labels, crowd and ids tell the boxes
    apart."""
    image = torch.full((3, height, width), 100, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes if paint else []:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    count = len(boxes)
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(count),
        "crowd": torch.arange(count) % 2 == 1,
        "ids": torch.arange(count) + 100,
    }
    return tv_tensors.Image(image), target


@pytest.mark.parametrize(
    ("size", "input_size", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),  # 640 * 800/480 = 1066.67
        ((427, 640), (800, 1333), (800, 1199)),  # 640 * 800/427 = 1199.06
        ((300, 1000), (800, 1333), (400, 1333)),  # the long side limits: 300 * 1.333 = 399.9
        ((1000, 300), (800, 1333), (1333, 400)),
        ((5, 2000), (240, 320), (1, 320)),  # 5 * 0.16 = 0.8, rounded half up
        ((1, 9000), (240, 320), (1, 320)),  # never 0
    ],
)
def test_fit_size_by_hand(size, input_size, expected):
    assert fit_size(size, input_size) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 900), st.integers(0, 900))
def test_fit_size_never_exceeds_the_input_size(height, width, short, more):
    new = fit_size((height, width), (short, short + more))
    assert min(new) >= 1
    assert min(new) <= short
    assert max(new) <= short + more


def test_eval_transform_scales_boxes_by_the_actual_ratio():
    """40x60 to (100, 145): scale min(2.5, 145/60) = 2.41667, so 97x145 and factors 2.425 down, 2.41667 across."""
    image, target = eval_transform((100, 145))(*sample([[6, 4, 30, 20]]))
    assert image.shape == (3, 97, 145)
    assert image.dtype == torch.uint8
    expected = torch.tensor([[6 * 145 / 60, 4 * 97 / 40, 30 * 145 / 60, 20 * 97 / 40]])
    assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), expected)
    assert target["boxes"].canvas_size == (97, 145)


def test_eval_transform_takes_a_picture_alone():
    image = torch.randint(0, 256, (3, 41, 63), dtype=torch.uint8)
    result = eval_transform((20, 30))(image)
    assert torch.equal(result, F.resize(image, list(fit_size((41, 63), (20, 30))), antialias=True))


@given(st.integers(1, 700), st.integers(1, 700), st.integers(8, 400), st.integers(0, 400))
@settings(deadline=None, max_examples=60)
def test_affine_round_trip(height, width, short, more):
    """Boxes carried to the input and back by Detections.to_original are the boxes again."""
    size = fit_size((height, width), (short, short + more))
    affine = resize_affine((height, width), size)
    boxes = torch.tensor([[0.0, 0.0, width, height], [width * 0.25, height * 0.5, width * 0.75, height]])
    moved = boxes * torch.tensor([affine[0], affine[1]] * 2)
    assert torch.allclose(moved[0], torch.tensor([0.0, 0.0, size[1], size[0]]), atol=1e-3)
    found = Detections(moved, torch.ones(2), torch.zeros(2, dtype=torch.int64))
    back = found.to_original(Meta(1, "a.jpg", (height, width), affine))
    assert torch.allclose(back.boxes, boxes, atol=1e-2)


def test_flips_by_hand():
    """60 wide, 40 high: x -> 60 - x, y -> 40 - y, and the corners change places."""
    box = [[6, 4, 30, 20]]
    _, target = train_transform("mmdet", (40, 60), flip=1.0)(*sample(box))
    assert target["boxes"].tolist() == [[30, 4, 54, 20]]
    both = train_transform("small", (40, 60), flip=1.0, vertical_flip=1.0, scale=(1, 1), colour=0)
    image, target = both(*sample(box, paint=True))
    assert target["boxes"].tolist() == [[30, 20, 54, 36]]
    assert (image[:, 20:36, 30:54] == 255).all()
    assert int((image == 255).sum()) == 3 * 24 * 16


def test_presets_without_crops_keep_every_box():
    boxes = [[0, 0, 1, 1], [59, 39, 60, 40], [0, 0, 60, 40], [10, 10, 11, 30]]
    for preset in ("none", "mmdet", "multiscale"):
        _, target = train_transform(preset, (20, 30))(*sample(boxes))
        assert target["ids"].tolist() == [100, 101, 102, 103]


def test_multiscale_uses_its_whole_range():
    torch.manual_seed(0)
    transform = train_transform("multiscale", (160, 400))
    heights = {transform(*sample([]))[0].shape[1] for _ in range(60)}
    assert heights == {160, 128, 96}


def test_zoom_in_by_hand():
    """Zoom 2 of a 40x60 picture on its own canvas: a 20x30 window, every length doubled; a corner outside is cut."""
    torch.manual_seed(1)
    transform = ZoomCrop((40, 60), (2.0, 2.0), min_visible=0.3)
    image, target = transform(*sample([[0, 0, 60, 40]]))
    assert image.shape == (3, 40, 60)
    # A quarter of the picture is left of its box, less than 0.3: emptied.
    assert target["boxes"].tolist() == [[0, 0, 0, 0]]
    _, target = ZoomCrop((40, 60), (2.0, 2.0), min_visible=0.2)(*sample([[0, 0, 60, 40]]))
    assert target["boxes"].tolist() == [[0, 0, 60, 40]]


def test_zoom_out_pads_with_the_fill_colour():
    """Zoom 0.5: the 40x60 picture becomes 20x30 somewhere on the canvas, the rest is the fill."""
    torch.manual_seed(2)
    image, target = ZoomCrop((40, 60), (0.5, 0.5), fill=(7, 8, 9))(*sample([[0, 0, 60, 40]]))
    x1, y1, x2, y2 = (int(v) for v in target["boxes"][0].tolist())
    assert (x2 - x1, y2 - y1) == (30, 20)
    assert (image[:, y1:y2, x1:x2] == 100).all()
    for channel, value in enumerate((7, 8, 9)):
        assert int((image[channel] == value).sum()) == 40 * 60 - 20 * 30


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("preset", ["mmdet", "multiscale", "small"])
def test_painted_rectangle_is_where_its_box_is(preset, seed):
    torch.manual_seed(seed)
    transform = train_transform(preset, (96, 150), colour=0, vertical_flip=0.5, fill=(100, 100, 100))
    image, target = transform(*sample([[40, 30, 90, 70]], height=120, width=160, paint=True))
    white = (image[0] > 177).nonzero()
    assert len(target["boxes"]) == 1
    low, high = white.amin(0).flip(0), white.amax(0).flip(0) + 1
    found = torch.cat([low, high]).float()
    assert (found - target["boxes"][0].as_subclass(torch.Tensor)).abs().max() <= 1.0


def test_what_is_removed_is_removed_everywhere():
    """A zoom of 3 leaves few boxes; labels, crowd and ids of those that stay still belong together."""
    boxes = [[x, y, x + 8, y + 8] for y in (1, 15, 30) for x in (1, 20, 45)]
    transform = train_transform("small", (40, 60), scale=(3.0, 3.0), flip=0.0, colour=0)
    counts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        _, target = transform(*sample(boxes))
        labels = target["labels"]
        counts.add(len(labels))
        assert len(target["boxes"]) == len(labels)
        assert torch.equal(target["crowd"], labels % 2 == 1)
        assert torch.equal(target["ids"], labels + 100)
    assert min(counts) < 4


def test_one_pixel_boxes_survive_an_unscaled_pass():
    transform = train_transform("small", (40, 60), scale=(1, 1), flip=0, colour=0)
    _, target = transform(*sample([[0, 0, 1, 1], [59, 39, 60, 40], [5, 5, 5.5, 9]]))
    assert target["ids"].tolist() == [100, 101]  # the third is thinner than a pixel


@pytest.mark.parametrize("preset", PRESETS)
def test_no_boxes_pass_through(preset):
    image, target = train_transform(preset, (20, 30))(*sample([]))
    assert target["boxes"].shape == (0, 4)
    assert len(target["labels"]) == len(target["crowd"]) == len(target["ids"]) == 0
    assert image.dtype == torch.uint8


coordinate = st.floats(0, 1, width=32)


@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=5),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(PRESETS),
    st.integers(0, 2**31),
)
@example([(0.0, 1.0, 0.0, 0.0)], 1, 21, "mmdet", 0)  # 21 pixels scaled to 48 are 48.000004
@settings(deadline=None, max_examples=150)
def test_boxes_stay_inside_and_upright(corners, height, width, preset, seed):
    boxes = [[min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height] for a, b, c, d in corners]
    torch.manual_seed(seed)
    inputs = sample(boxes, height, width)
    if preset == "mosaic":
        inputs = join([inputs, sample(boxes, height, width), sample([]), inputs], (32, 48))
    image, target = train_transform(preset, (32, 48))(*inputs)
    moved = target["boxes"].as_subclass(torch.Tensor)
    new_height, new_width = image.shape[1:]
    assert target["boxes"].canvas_size == (new_height, new_width)
    assert (moved >= 0).all()
    assert (moved[:, 2] <= new_width).all()
    assert (moved[:, 3] <= new_height).all()
    assert (moved[:, 2:] >= moved[:, :2]).all()
    assert len(moved) == len(target["labels"]) == len(target["crowd"]) == len(target["ids"])
    if preset in ("small", "mosaic", "ssd", "yolo", "detr"):
        assert ((moved[:, 2:] - moved[:, :2]) >= 1).all()


def smooth_picture():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    return torch.stack([80 + rows, 120 + columns, 100 + (rows + columns) // 2]).to(torch.uint8)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_colour_factors_are_torchvisions(factor):
    image = smooth_picture()
    pairs = [
        ((factor, 1, 1, 0), F.adjust_brightness(image, factor)),
        ((1, factor, 1, 0), F.adjust_contrast(image, factor)),
        ((1, 1, factor, 0), F.adjust_saturation(image, factor)),
    ]
    for factors, expected in pairs:
        assert (jitter_colour(image, *factors).int() - expected.int()).abs().max() <= 1


def test_a_turn_of_the_hue_keeps_the_luma_and_grey():
    image = smooth_picture()
    luma = torch.tensor([0.299, 0.587, 0.114])
    turned = jitter_colour(image, 1, 1, 1, 0.05)
    difference = torch.einsum("c,chw->hw", luma, turned.float() - image.float())
    assert difference.abs().max() <= 0.75  # rounding of three channels
    assert (turned.int() - image.int()).abs().max() > 5
    grey = torch.full((3, 4, 4), 90, dtype=torch.uint8)
    assert torch.equal(jitter_colour(grey, 1, 1, 1, 0.05), grey)


def test_hue_turns_the_way_torchvisions_does():
    """Red becomes yellowish, not purplish, for a positive turn of either."""
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4).contiguous()
    ours, theirs = jitter_colour(red, 1, 1, 1, 0.05)[:, 0, 0].int(), F.adjust_hue(red, 0.05)[:, 0, 0].int()
    assert (ours[1] > ours[2]) == (theirs[1] > theirs[2])


def test_ssd_draws_sizes_zooms_and_crops():
    """The short side is one of those given and the long one in the input's ratio; boxes follow their painted pixels;
    zooming out makes the picture's share small at times, cropping removes boxes at times, nothing is always done."""
    transform = train_transform("ssd", (64, 96), sizes=(32, 64), colour=0, fill=(100, 100, 100))
    whole, counts, sides = [], [], set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transform(*sample([[10, 8, 30, 32], [40, 4, 56, 16]], paint=True))
        sides.add(max(image.shape[1:]))
        counts.append(len(target["boxes"]))
        for x1, y1, x2, y2 in target["boxes"].round().long().tolist():
            whole.append((x2 - x1) * (y2 - y1) / image[0].numel())
            if min(x2 - x1, y2 - y1) >= 6:
                assert image[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 200
    assert {48, 96} <= sides  # fitted by the long side; by the short one, 32 or 64, where the crop is narrow
    assert max(sides) <= 96
    assert {1, 2} <= set(counts)
    assert min(whole) < 0.02
    assert max(whole) > 0.3


def test_crops_follow_torchvisions_rules():
    """Windows, kept boxes and how often nothing is cropped, against torchvision's RandomIoUCrop over 600 draws each."""
    image, target = sample([[6, 8, 30, 32], [40, 4, 56, 16], [2, 2, 5, 5]], 48, 60)
    statistics = []
    for crop in (IoUCrop(), v2.RandomIoUCrop()):
        sizes, kept, whole = [], [], 0
        for seed in range(600):
            torch.manual_seed(seed)
            cut, moved = crop(image, target)
            height, width = cut.shape[1:]
            whole += (height, width) == (48, 60)
            boxes = moved["boxes"].as_subclass(torch.Tensor)
            assert 0.5 <= width / height <= 2
            assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
            sizes.append(height * width / (48 * 60))
            kept.append(int((boxes[:, 2:] > boxes[:, :2]).all(1).sum()))
        statistics.append((sum(sizes) / 600, sum(kept) / 600, whole / 600))
    ours, theirs = statistics
    assert ours == pytest.approx(theirs, abs=0.06)
    plain = sample([])
    assert IoUCrop()(*plain)[0].shape == plain[0].shape


def test_distortion_changes_half_the_pictures_each_way():
    """A grey picture keeps its greys under saturation, hue and the order of channels; a red one does not."""
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0], red[1], red[2] = 180, 90, 60
    distortion, orders, same = PhotometricDistortion(), 0, 0
    for seed in range(200):
        torch.manual_seed(seed)
        out = distortion(tv_tensors.Image(red))
        assert out.dtype == torch.uint8
        assert out.flatten(1).unique(dim=1).shape[1] == 1
        same += torch.equal(out, red)
        orders += bool(out[:, 0, 0].argmax() != 0)
    assert 2 <= same <= 30  # 1 in 32 draws nothing, and in one more of 6 of these the order is the old one
    assert 40 <= orders <= 100  # of half the pictures two thirds have another channel first
    assert torch.equal(PhotometricDistortion(0.0)(tv_tensors.Image(red)).sort(0).values, red.sort(0).values)


def test_ssd_shrinks_photographs_before_its_canvas(monkeypatch):
    """Largest side drawn 64 by 96: twice that is 128 by 192, which 600x900 becomes before colours, canvas and crop, and
    what fits is left alone. Boxes follow."""
    seen = []
    monkeypatch.setattr(v2.RandomZoomOut, "forward", lambda self, *inputs: seen.append(inputs[0].shape) or inputs)
    transform = train_transform("ssd", (64, 96), sizes=(32, 64), colour=0)
    for height, width in ((600, 900), (900, 600), (128, 192), (100, 100), (1, 400)):
        transform(*sample([[0, 0, width, height]], height, width))
    assert [tuple(shape[1:]) for shape in seen] == [(128, 192), (192, 128), (128, 192), (100, 100), (1, 192)]
    shrink = transform.transforms[0]
    _, target = shrink(*sample([[90, 60, 450, 300]], 600, 900))
    assert target["boxes"].tolist() == [[pytest.approx(v, abs=1e-3) for v in (19.2, 12.8, 96, 64)]]
    assert not shrink.fixed  # so that cache="ram" does not enlarge what it keeps


def test_ssd_sizes_follow_the_input_size():
    """80% to 130% of 512 is 409.6 to 665.6, so 416 to 640 in steps of 32; of 320: 256 to 416."""
    for short, first, last in ((512, 416, 640), (320, 256, 416)):
        steps = train_transform("ssd", (short, short)).transforms[4].transforms
        assert [step.input_size for step in steps] == [(s, s) for s in range(first, last + 1, 32)]


def test_colour_jitter_clamps_and_leaves_boxes():
    torch.manual_seed(0)
    image, target = sample([[1, 2, 3, 4]])
    image = tv_tensors.Image(torch.full_like(image, 250))
    jitter = v2.Compose([ColourJitter(0.9, 0.9, 0.9, 0.0, p=1.0)])
    for _ in range(10):
        out, moved = jitter(image, target)
        assert out.unique().numel() == 1  # a flat picture stays flat, without wrapping around
        assert moved["boxes"].tolist() == [[1, 2, 3, 4]]


def test_mosaic_puts_each_picture_in_its_quarter():
    """Four flat 40x60 pictures on an 80x120 canvas; every box covers its picture, so it must enclose its colour."""
    tiles = []
    for value in (10, 20, 30, 40):
        _, target = sample([[0, 0, 60, 40]])
        target["labels"] = torch.tensor([value])
        tiles.append((tv_tensors.Image(torch.full((3, 40, 60), value, dtype=torch.uint8)), target))
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = join(tiles, (40, 60), fill=(0, 0, 0))
        assert image.shape == (3, 80, 120)
        assert target["labels"].tolist() == [10, 20, 30, 40]
        for box, value in zip(target["boxes"].long().tolist(), (10, 20, 30, 40)):
            where = (image[0] == value).nonzero()
            found = [*where.amin(0).flip(0).tolist(), *(where.amax(0).flip(0) + 1).tolist()]
            assert found == box
        seam = target["boxes"][0, 2:].tolist()
        assert target["boxes"][3, :2].tolist() == seam
        assert 45 <= seam[0] <= 75
        assert 30 <= seam[1] <= 50


def test_mosaic_needs_four():
    with pytest.raises(ValueError, match="4 samples, got 1"):
        join([sample([])], (40, 60))


def test_transforms_can_be_sent_to_a_worker():
    for preset in PRESETS:
        transform = pickle.loads(pickle.dumps(train_transform(preset, (20, 30), vertical_flip=0.5)))
        transform(*sample([[1, 2, 30, 20]]))
    assert pickle.loads(pickle.dumps(aligned_with_boxes)) is aligned_with_boxes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_transform("tiny", (20, 30)), "unknown preset 'tiny'; expected one of none, mmdet"),
        (lambda: KeepRatioResize((30, 20)), r"\(short, long\) with 0 < short <= long, got \(30, 20\)"),
        (lambda: ZoomCrop((20, 30), (0.0, 1.0)), "scale must be"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("none", {"flip": 0.3}, "preset 'none' ignores flip=0.3; it uses no setting"),
        ("mmdet", {"colour": 0.5}, "preset 'mmdet' ignores colour=0.5; it uses flip, vertical_flip"),
        ("detr", {"scale": (0.1, 2.0), "colour": 2}, "preset 'detr' ignores scale=(0.1, 2.0), colour=2; it uses flip"),
        ("small", {"translate": 0.3, "sizes": [64]}, "preset 'small' ignores translate=0.3, sizes=(64,); it uses flip"),
        ("ssd", {"rotate": 5.0}, "preset 'ssd' ignores rotate=5.0; it uses flip, vertical_flip, sizes, colour"),
        ("yolo", {"sizes": (64,)}, "preset 'yolo' ignores sizes=(64,); it uses flip"),
    ],
)
def test_a_setting_that_a_preset_ignores_is_named(caplog, preset, settings, message):
    """They did nothing without a word."""
    warn_unused(preset, settings)
    assert [record.getMessage()[: len(message)] for record in caplog.records] == [message]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_changes_the_picture_or_is_named(caplog, preset):
    """So the table of what a preset uses cannot lie. Defaults, and what switches something off, are never named."""
    changes = {
        "flip": 1.0, "vertical_flip": 1.0, "sizes": (24, 25), "scale": (3.0, 3.1), "colour": 2.5, "translate": 0.9,
        "rotate": 90.0, "shear": 40.0, "perspective": 0.3,
    }  # fmt: skip
    inputs = sample([[6, 4, 30, 20]], paint=True)
    noise = tv_tensors.Image(torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0)).byte())

    def pictures(**settings):
        torch.manual_seed(0)
        warn_unused(preset, settings)
        transform = train_transform(preset, (40, 60), **{"flip": 0.0, **settings})
        return [transform(noise, inputs[1])[0] for _ in range(6)]

    plain = pictures()
    pictures(sizes=(), scale=(1.0, 1.0), colour=0.0, translate=0.0)
    assert not caplog.records
    for name, value in changes.items():
        caplog.clear()
        changed = pictures(**{name: value})
        same = all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(plain, changed))
        assert same == any(f"ignores {name}=" in record.getMessage() for record in caplog.records), name


# ---------------------------------------------------------------------------------------------------------- DETR
def test_a_crop_draws_its_sides_and_place():
    """A pixel's colour is its column and row, so the first one tells where the window began."""
    torch.manual_seed(0)
    crop = SizeCrop(20, 30)
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    picture = tv_tensors.Image(torch.stack([columns, rows, rows]).to(torch.uint8))
    heights, widths, lefts, tops = set(), set(), set(), set()
    for _ in range(400):
        image, target = crop(picture, sample([[10, 10, 50, 30]])[1])
        (height, width), (left, top) = image.shape[1:], image[:2, 0, 0].tolist()
        expected = [max(10 - left, 0), max(10 - top, 0), min(50 - left, width), min(30 - top, height)]
        assert target["boxes"].tolist() == [expected]
        for seen, value in zip((heights, widths, lefts, tops), (height, width, left, top)):
            seen.add(value)
    assert heights == widths == set(range(20, 31))
    assert (min(lefts), min(tops)) == (0, 0)
    assert max(lefts) > 35
    assert max(tops) > 15
    assert crop(*sample([], 25, 15))[0].shape[2] == 15  # narrower than the least: whole
    with pytest.raises(ValueError, match=r"0 < low <= high, got \(30, 20\)"):
        SizeCrop(30, 20)


def test_detr_crops_half_of_the_pictures():
    """At (160, 266) to short sides of 96, 128 or 160; a picture of 120 x 180 keeps its ratio one time in two. A window
    of 77 to 120 along each axis of one of 120 x 180 or less seldom has that ratio."""
    torch.manual_seed(0)
    transform = train_transform("detr", (160, 266))
    whole, shorts = 0, set()
    for _ in range(120):
        image, target = transform(*sample([[0, 0, 180, 120]], 120, 180))
        height, width = image.shape[1:]
        assert max(height, width) <= 266
        shorts.add(min(height, width))
        whole += abs(width / height - 1.5) < 0.01
        assert target["boxes"][0].tolist() == pytest.approx([0, 0, width, height], abs=1e-3)
    assert 40 < whole < 80
    assert shorts >= {96, 128, 160}


def test_detr_keeps_boxes_on_their_pixels():
    torch.manual_seed(3)
    for _ in range(20):
        image, target = train_transform("detr", (160, 240))(*sample([[60, 40, 130, 110]], 150, 200, paint=True))
        for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
            bright = image[0] > 200
            inside = bright[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            assert inside.all() or not inside.numel()
            bright[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = False
            assert not bright.any()


def test_no_recipe_sets_what_its_preset_ignores(caplog):
    names = ("flip", "vertical_flip", "sizes", "scale", "colour", "translate", "rotate", "shear", "perspective")
    for name in RECIPES:
        config = recipe(name)
        warn_unused(config.preset, {key: getattr(config, key) for key in names})
    assert not caplog.records
