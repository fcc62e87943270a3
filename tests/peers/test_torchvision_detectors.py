"""Our detectors with torchvision's weights have torchvision's anchors, detections and losses."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from tv_detectors import CLASSES, SHORT, batch, build, differences, first_label, ours, pictures, spread

import headway
from headway.assign import IGNORE, NEGATIVE, max_iou
from headway.boxes import clip
from headway.types import Priors, Target

PEERS = {
    "retinanet_r50_fpn.torchvision": "retinanet_resnet50_fpn",
    "retinanet_r50_fpn.torchvision_v2": "retinanet_resnet50_fpn_v2",
    "fcos_r50_fpn.torchvision": "fcos_resnet50_fpn",
    "faster_rcnn_r50_fpn.torchvision": "fasterrcnn_resnet50_fpn",
    "faster_rcnn_r50_fpn.torchvision_v2": "fasterrcnn_resnet50_fpn_v2",
}
AIMS = {
    "retinanet": {
        "head.classification_head.cls_logits": (-4.0, 0.7),
        "head.regression_head.bbox_reg": (0.0, 0.3),
    },
    "fcos": {
        "head.classification_head.cls_logits": (-3.0, 1.5),
        "head.regression_head.bbox_reg": (1.0, 1.0),
        "head.regression_head.bbox_ctrness": (0.0, 1.0),
    },
    "faster": {
        "rpn.head.cls_logits": (0.0, 1.5),
        "rpn.head.bbox_pred": (0.0, 0.3),
        "roi_heads.box_predictor.cls_score": (0.0, 0.7),
        "roi_heads.box_predictor.bbox_pred": (0.0, 0.7),
    },
}
# Heights and widths that are and are not multiples of the strides: of 224 pixels torchvision's coarsest level makes
# two cells of 112, and of 608 five of 121. The last two make one batch, padded to the larger in each direction.
PICTURES = {"square": [(224, 224)], "odd": [(224, 608)], "unaligned": [(301, 224)], "padded": [(224, 300), (416, 224)]}


def aims(tag: str) -> dict[str, tuple[float, float]]:
    return AIMS[tag.split("_")[0]]


@pytest.fixture(scope="module", params=PEERS)
def pair(request):
    tag = request.param
    two_stage = tag.startswith("faster")  # with few proposals, to be fast
    theirs = build(PEERS[tag], **({"rpn_post_nms_top_n_test": 200} if two_stage else {}))
    spread(theirs, aims(tag), pictures((SHORT, SHORT)))
    return theirs, ours(theirs, tag, num_classes=CLASSES, **({"proposals": (2000, 200)} if two_stage else {}))


def check_detections(theirs: nn.Module, detector: headway.Detector, images: list[Tensor]) -> None:
    """Boxes within 1e-4 of the picture's long side, scores within 1e-4."""
    with torch.no_grad():
        expected = theirs(images)
    found = detector.detect(*batch(images, detector))
    for image, wanted, got in zip(images, expected, found):
        assert len(wanted["scores"]) >= 100
        assert len(wanted["labels"].unique()) >= CLASSES - 1
        assert 0.2 < wanted["scores"].max() < 0.99
        box, score = differences(wanted, got, first_label(detector.card.model))
        print(f"{detector.card.source.rsplit('/')[-1]}: {box:.2e} px, {score:.2e}, {len(got)}")
        assert box <= 1e-4 * max(image.shape)
        assert score <= 1e-4


@pytest.mark.parametrize("sizes", PICTURES.values(), ids=PICTURES)
def test_same_detections(pair, sizes):
    check_detections(*pair, pictures(*sizes))


@pytest.mark.parametrize("size", [(800, 1088), (416, 608), (224, 224)])
def test_same_anchors(pair, size):
    """Whole pixels, so equal to the last bit. FCOS's points are the centres of torchvision's boxes."""
    theirs, detector = pair
    head, generator = getattr(detector.head, "rpn", detector.head), getattr(theirs, "rpn", theirs).anchor_generator
    maps = [torch.zeros(1, 1, -(-size[0] // s), -(-size[1] // s)) for s in head.strides]
    (expected,) = generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)
    if detector.card.model.startswith("fcos"):
        centre = (expected[:, :2] + expected[:, 2:]) / 2
        expected = torch.cat([centre, centre], 1)
    priors = head.make_priors([x.shape[-2:] for x in maps], head.strides, torch.device("cpu"))
    assert torch.equal(priors.boxes, expected)


def make_targets(images: list[Tensor], counts: tuple[int, ...]) -> list[Target]:
    """Random boxes; those of the first picture have whole-pixel corners, so that points lie on their sides."""
    generator = torch.Generator().manual_seed(3)
    targets = []
    for image, count in zip(images, counts):
        low = torch.rand(count, 2, generator=generator) * torch.tensor(image.shape[:0:-1]) * 0.7
        boxes = torch.cat([low, low + 20 + torch.rand(count, 2, generator=generator) * 120], 1)
        boxes = clip(boxes.round() if not targets else boxes, torch.tensor(image.shape[1:]))
        targets.append(Target(boxes, torch.randint(CLASSES, (count,), generator=generator)))
    return targets


def check_losses(expected: dict[str, Tensor], found: dict[str, Tensor], names: dict[str, str]) -> None:
    assert {names[name] for name in expected} == set(found)
    for name, value in expected.items():
        assert value > 1e-5
        assert found[names[name]].item() == pytest.approx(value.item(), rel=1e-4), name


@torch.no_grad()
def test_same_losses_of_one_stage(pair):
    """On a picture with many boxes, one with a few, and one with none."""
    theirs, detector = pair
    if hasattr(theirs, "rpn"):
        pytest.skip("two stages")
    images = pictures((224, 300), (416, 224), (224, 224))
    targets = make_targets(images, (12, 3, 0))
    image_list, _ = theirs.transform(images)
    features = list(theirs.backbone(image_list.tensors).values())
    outputs, anchors = theirs.head(features), theirs.anchor_generator(image_list, features)
    counts = [[x.shape[2] * x.shape[3] for x in features]] if detector.head.quality else []
    expected = theirs.compute_loss([{"boxes": t.boxes, "labels": t.labels} for t in targets], outputs, anchors, *counts)
    found = detector.loss(detector(*batch(images, detector)), targets)
    check_losses(
        expected, found.terms, {"classification": "cls", "bbox_regression": "box", "bbox_ctrness": "centerness"}
    )


@torch.no_grad()
@pytest.mark.parametrize("tag", [tag for tag in PEERS if tag.startswith("faster")])
def test_same_losses_of_two_stages(tag):
    """Both sample at random, so both are made to take all."""
    theirs = build(PEERS[tag], rpn_post_nms_top_n_train=30, rpn_post_nms_top_n_test=30)
    images = pictures((224, 300), (256, 224), (224, 224))
    spread(theirs, aims(tag), images)
    detector = ours(theirs, tag, num_classes=CLASSES, proposals=(30, 30), rpn_samples=None, roi_samples=None)
    for part in (theirs.rpn, theirs.roi_heads):
        part.training = True  # alone, so that batch norms keep their statistics
        part.fg_bg_sampler = lambda labels: ([x >= 1 for x in labels], [x == 0 for x in labels])
    targets = make_targets(images, (12, 3, 0))
    dictionaries = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]
    image_list, _ = theirs.transform(images)
    features = theirs.backbone(image_list.tensors)
    proposals, expected = theirs.rpn(image_list, features, dictionaries)
    _, more = theirs.roi_heads(features, proposals, image_list.image_sizes, dictionaries)
    x, sizes = batch(images, detector)
    found = detector.loss(detector(x, sizes, targets), targets)
    check_losses(
        expected | more,
        found.terms,
        {"loss_objectness": "rpn_cls", "loss_rpn_box_reg": "rpn_box", "loss_classifier": "cls", "loss_box_reg": "box"},
    )


def test_rescued_anchors_keep_their_own_box_as_in_torchvision():
    """Small anchors under boxes that overlap each other: many tie the best overlap of one box and prefer another."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * 80
    boxes = torch.cat([low, low + 10 + torch.rand(40, 2, generator=generator) * 90], 1)
    grid = torch.cartesian_prod(torch.arange(0, 160, 8.0), torch.arange(0, 160, 8.0))
    anchors = torch.cat([grid, grid + 16], 1)
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    expected = torch.where(expected == Matcher.BETWEEN_THRESHOLDS, IGNORE, expected)
    assert NEGATIVE == Matcher.BELOW_LOW_THRESHOLD
    priors = Priors(anchors, torch.full((len(anchors),), 8.0), (len(anchors),))
    assert torch.equal(max_iou(priors, boxes, keep_owner=True), expected)
    assert not torch.equal(max_iou(priors, boxes), expected)


# ----------------------------------------------------------------------------------------------- published files
def as_published(model: nn.Module) -> dict[str, Tensor]:
    """The names of the files of 2020: no counters of batches, convolutions without an index of their own."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[-1] == "num_batches_tracked":
            continue
        if parts[1] == "fpn" and parts[2] != "extra_blocks":
            assert parts.pop(4) == "0"
        if len(parts) > 4 and parts[2] == "conv" and parts[4] == "0":
            parts[3:5] = [str(2 * int(parts[3]))] if parts[0] == "head" else []
        state[".".join(parts)] = value
    return state


@pytest.mark.parametrize("tag", ["retinanet_r50_fpn.torchvision", "faster_rcnn_r50_fpn.torchvision"])
def test_a_file_with_the_names_and_the_epsilon_of_2020(tag, tmp_path):
    """torchvision's first files were trained without epsilon in frozen batch norms, and loading one says so: with
    variances near 1e-5 it decides. The card remembers it."""
    theirs = build(PEERS[tag])
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = 3e-5 / module.running_var
            module.running_var *= scale
            module.weight.data *= scale.sqrt()
            module.eps = 0.0
    spread(theirs, aims(tag), pictures((SHORT, SHORT)))
    state = as_published(theirs)
    old = {"backbone.fpn.inner_blocks.0.weight"}
    old |= {"rpn.head.conv.weight"} if tag.startswith("faster") else {"head.classification_head.conv.6.weight"}
    assert old <= set(state)
    torch.save(state, tmp_path / "published.pth")
    detector = headway.create_model(tag, pretrained=tmp_path / "published.pth", num_classes=CLASSES).eval()
    assert detector.card.arguments["norm_eps"] == 0.0
    check_detections(theirs, detector, pictures((224, 256)))
    again = headway.load(headway.save(detector, tmp_path / "ours.safetensors"))
    check_detections(theirs, again, pictures((224, 256)))
    assert "norm_eps" not in headway.create_model(tag).card.arguments


@pytest.mark.parametrize("tag", PEERS)
def test_labels_are_torchvisions_categories(tag):
    categories = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    first = first_label(tag)
    with torch.device("meta"):
        card = headway.create_model(tag).card
        other = headway.create_model(tag, class_names=["cell"]).card
    assert list(card.class_names) == categories[first:]
    assert card.category_ids == tuple(range(first, 91))
    assert (other.class_names, other.category_ids) == (("cell",), ())


@pytest.mark.parametrize("tag", PEERS)
def test_metrics_and_addresses_are_torchvisions(tag):
    row = next(row for row in headway.models.weights.ROWS if row.name == tag)
    weights = torchvision.models.get_model_weights(PEERS[tag]).COCO_V1
    assert weights.url == row.url
    assert math.isclose(weights.meta["_metrics"]["COCO-val2017"]["box_map"] / 100, row.metrics["AP"])
    extra = 53_120 if dict(row.arguments).get("norm") == "frozen" else 0  # scales and shifts of 53 norms
    extra -= 4 * 1025 * first_label(tag)  # the box of background
    with torch.device("meta"):
        model = headway.create_model(tag)
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"] + extra
