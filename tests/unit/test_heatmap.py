"""The heat-map head: both styles from raw output to boxes and back, ties, and the edges."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.heads import heatmap as heatmap_module
from headway.heads.heatmap import HeatmapHead, HeatmapRaw, set_prior
from headway.select import select
from headway.types import Frame, Target

CLASSES = 3


def target(*boxes: tuple[float, ...], labels: list[int] | None = None, crowd: list[bool] | None = None) -> Target:
    rows = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    names = torch.arange(len(rows)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(rows, names, None if crowd is None else torch.tensor(crowd))


def head(style: Any = "ltrb", max_candidates: int = 100, **arguments: Any) -> HeatmapHead:
    """Branches of one convolution on 8 channels."""
    torch.manual_seed(0)
    maps = 4 if style == "ltrb" else 2
    offset = None if style == "ltrb" else nn.Conv2d(8, 2, 1)
    heatmap, box = nn.Conv2d(8, CLASSES, 3, padding=1), nn.Conv2d(8, maps, 1)
    module = HeatmapHead(heatmap, box, offset, num_classes=CLASSES, style=style, **arguments)
    module.max_candidates = max_candidates
    return module


def features(batch: int = 2, height: int = 13, width: int = 20) -> Tensor:
    return torch.randn(batch, 8, height, width, generator=torch.Generator().manual_seed(1))


def frame_of(x: Tensor) -> Frame:
    height, width = x.shape[2] * 4, x.shape[3] * 4
    return Frame(torch.tensor([[height, width]] * x.shape[0]), (height, width))


def run(head: HeatmapHead, x: Tensor) -> HeatmapRaw:
    return head([x], frame_of(x))


def perfect(style: str, wanted: Target, size: tuple[int, int] = (13, 20)) -> HeatmapRaw:
    """Raw output whose peaks and boxes are those of `wanted`."""
    height, width = size
    heat = torch.full((1, CLASSES, height, width), -9.0)
    box, offset = torch.zeros(1, 4 if style == "ltrb" else 2, height, width), torch.zeros(1, 2, height, width)
    for (x1, y1, x2, y2), label in zip(wanted.boxes.tolist(), wanted.labels.tolist()):
        centre_x, centre_y = (x1 + x2) / 8, (y1 + y2) / 8
        x, y = int(centre_x), int(centre_y)
        heat[0, label, y, x] = 9.0
        offset[0, :, y, x] = torch.tensor([centre_x - x, centre_y - y])
        sides = [4 * x - x1, 4 * y - y1, x2 - 4 * x, y2 - 4 * y]
        box[0, :, y, x] = torch.tensor(sides if style == "ltrb" else [(x2 - x1) / 4, (y2 - y1) / 4])
    return HeatmapRaw(heat, box, None if style == "ltrb" else offset, torch.tensor([[height * 4, width * 4]]))


STYLES = pytest.mark.parametrize("style", ["ltrb", "center"])
SEVERAL = target((3, 5, 30, 41), (40.5, 8, 77, 20.25), (60, 30, 61, 31), (50, 22, 79, 51))


# ---------------------------------------------------------------------------------------------------- the outputs
@STYLES
@pytest.mark.parametrize("size", [(13, 20), (7, 5), (1, 1), (2, 1)])
def test_shapes_and_a_static_number_of_candidates(style, size):
    """K is 100, or every (cell, class) pair of a smaller map."""
    module = head(style)
    x = features(2, *size)
    raw = run(module, x)
    assert raw.heatmap.shape == (2, CLASSES, *size)
    assert raw.box.shape == (2, 4 if style == "ltrb" else 2, *size)
    assert (raw.offset is None) == (style == "ltrb")
    candidates = module.decode(raw)
    count = min(100, CLASSES * size[0] * size[1])
    assert candidates.boxes.shape == (2, count, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, count)
    assert candidates.scores.isfinite().all()
    assert candidates.boxes.isfinite().all()
    assert (candidates.scores[:, 1:] <= candidates.scores[:, :-1]).all()
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2) * 4).all()
    assert (candidates.boxes >= 0).all()


def test_distances_are_rectified_and_scaled():
    module = head()
    x = features()
    torch.testing.assert_close(run(module, x).box, module.box(x).clamp(min=0) * 16)
    assert (run(head("center"), x).box < 0).any()


@STYLES
def test_outputs_are_float32_in_mixed_precision(style):
    """Scores of bfloat16 near 1 would all be 1."""
    with torch.autocast("cpu", torch.bfloat16):
        raw = run(head(style), features())
        losses = head(style).loss(raw, [SEVERAL, target()])
    assert {v.dtype for v in (raw.heatmap, raw.box, losses.total)} == {torch.float32}


@STYLES
def test_a_perfect_output_decodes_to_the_ground_truth(style):
    found = select(head(style).decode(perfect(style, SEVERAL)), score_threshold=0.5, nms_iou=None)[0]
    order = found.boxes[:, 0].argsort()
    expected = SEVERAL.boxes[:, 0].argsort()
    torch.testing.assert_close(found.boxes[order], SEVERAL.boxes[expected])
    assert found.labels[order].tolist() == SEVERAL.labels[expected].tolist()


@STYLES
def test_a_perfect_output_has_no_box_loss_at_the_centres(style):
    """CenterNet learns the centre alone: nothing is left. TTFNet learns the whole window: less than from a random box
    map, and nothing where every cell of it knows the box."""
    raw = perfect(style, SEVERAL)
    if style == "center":
        terms = head(style).loss(raw, [SEVERAL]).terms
        assert terms["size"].item() == pytest.approx(0, abs=1e-5)
        assert terms["offset"].item() == pytest.approx(0, abs=1e-5)
        return
    one = target((3, 5, 63, 45))
    y, x = torch.meshgrid(torch.arange(13) * 4.0, torch.arange(20) * 4.0, indexing="ij")
    sides = torch.stack([x - 3, y - 5, 63 - x, 45 - y])
    assert head().loss(raw._replace(box=sides[None]), [one]).terms["box"].item() == pytest.approx(0, abs=1e-4)
    assert head().loss(raw._replace(box=sides[None] + 8), [one]).terms["box"] > 1


def test_center_losses_by_hand():
    """One box of 10 x 6 cells with centre (5.5, 4.25), all outputs 1: size (9 + 5) / 2 * 0.1, offset (0.5 + 0.75) / 2,
    and the heat map -(1 - p)^2 ln p of p = 0.5 at one cell and what its surroundings add."""
    raw = HeatmapRaw(
        torch.zeros(1, 1, 9, 12), torch.ones(1, 2, 9, 12), torch.ones(1, 2, 9, 12), torch.tensor([[36, 48]])
    )
    module = HeatmapHead(nn.Identity(), nn.Identity(), nn.Identity(), num_classes=1, style="center")
    losses = module.loss(raw, [target((2, 5, 42, 29), labels=[0])])
    assert losses.terms["size"].item() == pytest.approx(0.7)
    assert losses.terms["offset"].item() == pytest.approx(0.625)
    assert losses.stats["positives"] == 1


# --------------------------------------------------------------------------------------------------------- losses
@STYLES
@pytest.mark.parametrize(
    "boxes", [(), ((8, 8, 40, 30),), ((70, 44, 80, 52), (0, 0, 1, 1), (0, 0, 80, 52), (5, 5, 5, 5))]
)
def test_loss_is_finite_and_reaches_every_parameter(style, boxes):
    """Without objects the box branches get a gradient of zero, not none: all processes must agree on what has one."""
    module = head(style)
    losses = module.loss(run(module, features()), [target(*boxes), target()])
    assert losses.total.isfinite()
    losses.total.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() == (bool(boxes) or name.startswith("heatmap")), name


@STYLES
def test_crowd_takes_no_part(style):
    module = head(style)
    raw = run(module, features(1))
    alone = module.loss(raw, [target((8, 8, 40, 30), labels=[1])])
    both = module.loss(raw, [target((0, 0, 79, 50), (8, 8, 40, 30), labels=[0, 1], crowd=[True, False])])
    for name, term in alone.terms.items():
        assert torch.equal(both.terms[name], term)
    nothing = module.loss(raw, [target((0, 0, 79, 50), crowd=[True])])
    assert nothing.stats["positives"] == 0
    assert torch.equal(nothing.terms["heatmap"], module.loss(raw, [target()]).terms["heatmap"])


@STYLES
def test_a_batch_is_normalised_as_a_whole(style):
    """Sums over the batch divided by the positives of the batch: for `ltrb` by the sum of the box weights."""
    module = head(style)
    raw = run(module, features())
    targets = [SEVERAL, target((10, 10, 50, 50))]
    batch = module.loss(raw, targets)
    singles = [
        module.loss(HeatmapRaw(*(None if v is None else v[i : i + 1] for v in raw)), [targets[i]]) for i in range(2)
    ]
    heat = (4 * singles[0].terms["heatmap"] + singles[1].terms["heatmap"]) / 5
    torch.testing.assert_close(batch.terms["heatmap"], heat)
    assert batch.stats["positives"] == 2.5
    if style == "center":
        torch.testing.assert_close(batch.terms["size"], (4 * singles[0].terms["size"] + singles[1].terms["size"]) / 5)


@STYLES
def test_normalisers_are_those_of_all_processes(style, monkeypatch):
    """With twice the positives in the other processes every term is half (the 1e-4 beside the weights aside)."""
    module = head(style)
    raw = run(module, features(1))
    before = module.loss(raw, [SEVERAL])
    monkeypatch.setattr(heatmap_module, "reduce_mean", lambda value: value * 2)
    after = module.loss(raw, [SEVERAL])
    for name, term in before.terms.items():
        torch.testing.assert_close(after.terms[name], term / 2, rtol=1e-4, atol=0)


@STYLES
def test_background_weighs_the_same_in_two_processes(style, monkeypatch):
    """Two pictures without boxes, in one process, and in two with one each, whose losses are averaged."""
    module, empty = head(style), target()
    raw = run(module, features(2))
    whole = module.loss(raw, [empty, empty])
    monkeypatch.setattr(heatmap_module, "world_size", lambda: 2)
    parts = [module.loss(HeatmapRaw(*(None if v is None else v[i : i + 1] for v in raw)), [empty]) for i in range(2)]
    assert whole.terms["heatmap"] > 0
    for name, term in whole.terms.items():
        torch.testing.assert_close((parts[0].terms[name] + parts[1].terms[name]) / 2, term)


def test_stuck_is_the_loss_without_gradient():
    """Three of four objects are at logits below -ln(9999) = -9.2102: 3 / 4 of 9.2085. With every score at the upper
    limit all of the loss is."""
    raw = perfect("ltrb", SEVERAL)
    raw.heatmap[raw.heatmap > 0] = torch.tensor([-9.22, -9.2, -50, -9.3])
    assert head().loss(raw, [SEVERAL]).stats["stuck"].item() == pytest.approx(9.208498 * 3 / 4, rel=1e-6)
    light = head()
    light.weights["heatmap"] = 0.1
    assert light.loss(raw, [SEVERAL]).stats["stuck"].item() == pytest.approx(0.69063735, rel=1e-6)
    assert head(score_clip=0.0).loss(raw, [SEVERAL]).stats["stuck"] == 0
    far = raw._replace(heatmap=torch.full((1, CLASSES, 13, 20), 30.0))
    losses = head().loss(far, [SEVERAL])
    assert losses.terms["heatmap"] > 500
    torch.testing.assert_close(losses.stats["stuck"], losses.terms["heatmap"])


def test_closed_distances_are_those_at_0_in_every_cell_that_learns_a_long_one():
    """Left is 0 everywhere, top everywhere but at one cell inside the window. Nothing is judged without objects, nor by
    one that ends within a cell of its own, to whose sides 0 is as near as need be."""
    raw = HeatmapRaw(torch.zeros(1, CLASSES, 13, 20), torch.ones(1, 4, 13, 20), None, torch.tensor([[52, 80]]))
    raw.box[0, :2] = 0
    one = target((10, 6, 70, 46))
    stats = [head().loss(raw, [one]).stats]
    raw.box[0, 1, 6, 8] = 1
    stats += [head().loss(raw, [t]).stats for t in (one, target(), target((33, 25, 36, 28)))]
    assert [(s["closed"].item(), s["judged"].item()) for s in stats] == [(2, 1), (1, 1), (0, 0), (0, 0)]


# --------------------------------------------------------------------------------------------------------- decode
def heat_raw(logits: Tensor) -> HeatmapRaw:
    batch, _, height, width = logits.shape
    return HeatmapRaw(
        logits, torch.full((batch, 4, height, width), 3.0), None, torch.tensor([[height * 4, width * 4]] * batch)
    )


def test_only_peaks_are_candidates():
    """A peak hides its eight neighbours in its own class alone; further cells and classes are peaks of their own."""
    logits = torch.full((1, CLASSES, 8, 8), -30.0)
    logits[0, 0, 2:5, 2:5] = 1.0
    logits[0, 0, 3, 3] = 2.0
    logits[0, 1, 3, 4] = 1.5
    found = select(head().decode(heat_raw(logits)), score_threshold=0.01, nms_iou=None)[0]
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.5]).sigmoid())
    assert found.boxes.tolist() == [[9, 9, 15, 15], [13, 9, 19, 15]]


def test_equal_scores_come_in_the_documented_order():
    """Every cell of a plateau is kept. Of equal scores the upper cell comes first, then the left one, then the lower
    class; with fewer places than equal scores the first of that order stay, and a better pair is before all."""
    logits = torch.full((2, CLASSES, 6, 6), -30.0)
    places = [(2, 0, 0), (2, 0, 1), (1, 0, 4), (2, 0, 4), (0, 3, 0), (1, 5, 5)]  # (class, y, x)
    for label, y, x in places:
        logits[:, label, y, x] = 1.0
    logits[0, 0, 5, 5] = 2.0
    points = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij"))  # each box tells its cell
    box = torch.cat([torch.zeros(2, 6, 6), 20 - 4 * points.flip(0) + points.flip(0) * 0.1])
    raw = heat_raw(logits)._replace(box=box.expand(2, -1, -1, -1), sizes=torch.tensor([[100, 100]] * 2))
    for count in (7, 6, 4, 2):
        candidates = head(max_candidates=count).decode(raw)
        for image, expected in enumerate(([(0, 5, 5), *places], places)):
            cells = ((candidates.boxes[image, :, 2:] - 20) / 0.1).round().long().flip(1).tolist()
            found = [(label, *cell) for label, cell in zip(candidates.labels[image].tolist(), cells)]
            passed = candidates.scores[image] > 0.5
            assert [f for f, p in zip(found, passed) if p] == expected[:count]


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_best_pairs_against_a_stable_sort(levels):
    """Scores of few levels, so that many tie: the same pairs in the same order as sorting all of them."""
    logits = torch.randint(0, levels, (3, CLASSES, 9, 11), generator=torch.Generator().manual_seed(levels)) * (
        8 / levels
    )
    peak = nn.functional.max_pool2d(logits, 3, stride=1, padding=1) == logits
    scores = torch.where(peak, logits.sigmoid(), 0.0).permute(0, 2, 3, 1).flatten(1)
    wanted = scores.sort(dim=1, descending=True, stable=True)
    candidates = head(max_candidates=25).decode(heat_raw(logits))
    torch.testing.assert_close(candidates.scores, wanted.values[:, :25])
    assert torch.equal(candidates.labels, wanted.indices[:, :25] % CLASSES)


def test_nms_is_an_option():
    """Both cells of a plateau are the same object; NMS per class leaves one."""
    logits = torch.full((1, CLASSES, 8, 8), -30.0)
    logits[0, 1, 4, 4:6] = 3.0
    raw = heat_raw(logits)._replace(box=torch.full((1, 4, 8, 8), 12.0))
    candidates = head().decode(raw)
    counts = [len(select(candidates, score_threshold=0.01, nms_iou=iou)[0]) for iou in (None, 0.5)]
    assert counts == [2, 1]


def test_boxes_are_clipped_to_the_valid_picture():
    """Peaks in the padding give boxes without area, which selection drops."""
    logits = torch.full((1, 1, 8, 8), -30.0)
    logits[0, 0, 2, 2], logits[0, 0, 6, 6] = 2.0, 2.0
    raw = heat_raw(logits)._replace(sizes=torch.tensor([[10, 16]]))
    module = HeatmapHead(nn.Identity(), nn.Identity(), num_classes=1)
    found = select(module.decode(raw), score_threshold=0.01, nms_iou=None)[0]
    assert found.boxes.tolist() == [[5, 5, 11, 10]]


@STYLES
def test_exports_to_one_graph(style):
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head(style, max_candidates=20).eval()

        def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            candidates = self.head.decode(self.head([x], sizes))
            return candidates.boxes, candidates.scores, candidates.labels

    module, x = Decoder(), features()
    program = torch.export.export(module, (x, frame_of(x).sizes))
    for ours, theirs in zip(module(x, frame_of(x).sizes), program.module()(x, frame_of(x).sizes)):
        torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------------------------------------------------- errors
def test_prior():
    branch = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    set_prior(branch, 0.01)
    torch.testing.assert_close(branch[2].bias.sigmoid(), torch.full((2,), 0.01))
    assert branch[2].bias[0].item() == pytest.approx(-4.59512, abs=1e-5)
    with pytest.raises(ValueError, match="bias=True"):
        set_prior(nn.Conv2d(4, 2, 1, bias=False), 0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ags": "on"}, "'off', 'paddle' or 'gaussian', got 'on'"),
        ({"style": "corner"}, "'ltrb' or 'center', got 'corner'"),
        ({"style": "center", "ags": "gaussian"}, "style 'center' learns one cell"),
        ({"offset": nn.Identity()}, "'ltrb' has no offset"),
    ],
)
def test_arguments_that_do_not_fit(arguments, words):
    with pytest.raises(ValueError, match=words):
        HeatmapHead(nn.Identity(), nn.Identity(), num_classes=1, **arguments)


def test_several_maps_are_refused():
    with pytest.raises(ValueError, match="one map of stride 4, got 2"):
        head()([features(), features()], Frame(torch.tensor([[52, 80]] * 2), (52, 80)))
