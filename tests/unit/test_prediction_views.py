"""Tiles and test-time augmentation in `Predictor`: where boxes land, what is merged, and what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

import headway
from headway.boxes import pairwise_iou
from headway.data.batch import BatchItem
from headway.data.image import read_image
from headway.data.open_data import open_data
from headway.demo import ASSETS, DATA
from headway.errors import HeadwayError
from headway.evaluate.api import evaluate
from headway.predict import Predictor, predict
from headway.predict.tta import fuse_boxes
from headway.runtime import Runtime
from headway.select import nms_per_class
from headway.serve.checkpoint_engine import CheckpointEngine
from headway.serve.engine import Asked
from headway.types import Detections, ModelCard


class Blobs(nn.Module):
    """A detector that finds every bright region: its box, scored by the region's brightest value."""

    def __init__(self, *, fuses: bool = False) -> None:
        super().__init__()
        self.card = ModelCard(class_names=("blob",), input_size=(64, 64), pad_multiple=32, pad=(0, 0, 0))
        self.head = SimpleNamespace(fuses_views=fuses)
        self.weight = nn.Parameter(torch.ones(1))
        self.asked: list[dict[str, object]] = []
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        return images.mean() * self.weight

    def detect(self, images: Tensor, sizes: Tensor, **options: object) -> list[Detections]:
        self.asked.append(options)
        self.batches.append(len(images))
        found = []
        for image in images[:, 0].numpy():
            regions = ndimage.find_objects(ndimage.label(image > 0.2)[0])
            boxes = [[x.start, y.start, x.stop, y.stop] for y, x in regions]
            scores = torch.tensor([float(image[region].max()) for region in regions])
            labels = torch.zeros(len(regions), dtype=torch.int64)
            found.append(Detections(torch.tensor(boxes).float().reshape(-1, 4), scores, labels, ("blob",)))
        return found


def scene(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], value: int = 255) -> Tensor:
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[:, y1:y2, x1:x2] = value
    return pixels


def rows(found: Detections) -> list[list[float]]:
    return sorted(found.boxes.tolist())


BOXES = [(3, 5, 9, 12), (50, 20, 70, 40), (100, 2, 112, 30), (60, 90, 66, 140), (120, 100, 190, 148)]


def test_a_large_picture_is_scaled_a_part_at_a_time() -> None:
    """10 x 12 tiles of 64 and the whole, mirrored too, by 64 windows: 128 views and then 114."""
    predictor, counts = Predictor(Blobs(), batch_size=4, tiles=64, overlap=0, tta="flip"), []  # type: ignore[arg-type]

    def passes(samples: Sequence[BatchItem], options: dict[str, object]) -> list[Detections]:
        counts.append(len(samples))
        return predictor._passes(samples, options)

    found = predictor.views.detect(scene((640, 768), BOXES[:4]), passes)
    assert counts == [128, 114]
    assert {tuple(row) for row in rows(found)} >= {*BOXES[:4]}  # beside those of the whole at a twelfth of its size


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_boxes_of_tiles_are_in_pixels_of_the_picture(overlap: float) -> None:
    """Tiles of 64 are looked at as they are, so what is found is exact, of objects in two tiles too. The last is larger
    than a tile: the whole picture shows it, at a third of the size."""
    model = Blobs()
    found = Predictor(model, batch_size=4, tiles=True, overlap=overlap)(scene((150, 200), BOXES))[0]  # type: ignore[arg-type]
    *exact, large = sorted(BOXES)
    assert rows(found)[:4] == [[*map(float, box)] for box in exact]
    np.testing.assert_allclose(rows(found)[4:], [large], atol=3)
    assert found.size == (150, 200)


def test_the_whole_picture_is_looked_at_too() -> None:
    """An object as large as the picture, of which every tile is full: the whole shows it."""
    large = (10, 12, 190, 140)
    found = Predictor(Blobs(), tiles=64)(scene((150, 200), [large]))[0]  # type: ignore[arg-type]
    assert len(found) == 1
    torch.testing.assert_close(found.boxes[0], torch.tensor([*map(float, large)]), atol=4, rtol=0)


def test_mirrored_and_scaled_views_come_back() -> None:
    pixels = scene((40, 64), [(8, 4, 24, 20)])
    for fuses in (False, True):
        found = Predictor(Blobs(fuses=fuses), tta="flip,0.5,2")(pixels)[0]  # type: ignore[arg-type]
        assert len(found) == 1
        torch.testing.assert_close(found.boxes[0], torch.tensor([8.0, 4, 24, 20]), atol=1, rtol=0)
        assert found.scores[0] == 1
    lone = scene((40, 64), [(8, 4, 24, 20)], 200)
    mirrored = Predictor(Blobs(), tta="flip")(lone)[0]  # type: ignore[arg-type]
    assert mirrored.boxes.tolist() == [[8, 4, 24, 20]]


def test_what_is_merged_before_and_after_suppression() -> None:
    """Candidates of a dense head come unsuppressed; those of other heads as they are, weak ones too, since fusing
    changes scores. The threshold then counts for what was fused."""
    dense, final = Blobs(), Blobs(fuses=True)
    for model in (dense, final):
        predictor = Predictor(model, threshold=0.3, max_detections=7, tta="flip", fuse=False)  # type: ignore[arg-type]
        predictor(scene((40, 64), [(8, 4, 24, 20)]))
    assert dense.asked[0] == {"threshold": 0.3, "nms_iou": None, "max_detections": 5000}
    assert final.asked[0] == {"threshold": 0.001, "nms_iou": "card", "max_detections": 7}
    weak = scene((40, 64), [(8, 4, 24, 20)], 60)  # scores 0.235
    assert len(Predictor(Blobs(fuses=True), threshold=0.3, tta="flip")(weak)[0]) == 0  # type: ignore[arg-type]
    assert len(Predictor(Blobs(fuses=True), threshold=0.2, tta="flip")(weak)[0]) == 1  # type: ignore[arg-type]
    with pytest.raises(HeadwayError, match="tta fuses what suppression left"):
        Predictor(Blobs(fuses=True), nms_iou=None, tta="flip")  # type: ignore[arg-type]


def test_tiles_go_together_in_batches() -> None:
    model = Blobs()
    Predictor(model, batch_size=4, tiles=True, fuse=False)(scene((150, 200), BOXES))  # type: ignore[arg-type]
    assert model.batches == [4, 4, 4, 1]  # of 4 x 3 tiles and the whole


def test_limits_count_for_tiles_and_for_the_picture() -> None:
    pixels = scene((150, 200), BOXES)
    assert len(Predictor(Blobs(), tiles=64)(pixels)[0]) == 5  # type: ignore[arg-type]
    assert len(Predictor(Blobs(), tiles=64, max_detections=2)(pixels)[0]) == 2  # type: ignore[arg-type]
    assert len(Predictor(Blobs(), tiles=64, max_detections=2, classes=["blob"])(pixels)[0]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tiles": 16}, "tiles"),
        ({"tiles": 64, "overlap": 1}, "overlap"),
        ({"tiles": 64.5}, "tiles"),
        ({"tta": "x"}, "tta"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict, said: str) -> None:
    with pytest.raises(HeadwayError, match=said):
        Predictor(Blobs(), **options)  # type: ignore[arg-type]


class BlobEngine:
    """An exported file that finds what `Blobs` does."""

    name = "fake"

    def __init__(self, shape: list[int | None]) -> None:
        card = ModelCard(class_names=("blob",), input_size=(64, 64), pad_multiple=32, max_detections=3)
        self.shape, self.notes = shape, {"card": json.dumps(card.to_dict()), "export": "{}"}
        self.passes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        self.passes.append(images.shape)
        found = Blobs().detect(torch.from_numpy(images) / 255, torch.from_numpy(sizes))
        boxes, scores = np.zeros((len(images), 3, 4), np.float32), np.zeros((len(images), 3), np.float32)
        for i, one in enumerate(found):
            boxes[i, : len(one)], scores[i, : len(one)] = one.boxes[:3].numpy(), one.scores[:3].numpy()
        return [boxes, scores, np.zeros((len(images), 3), np.int64)]


@pytest.mark.parametrize(("shape", "passes"), [([None, 3, None, None], [4, 4, 4, 1]), ([2, 3, 64, 64], [2] * 7)])
def test_an_exported_file_looks_at_tiles(tmp_path: Path, shape: list[int | None], passes: list[int]) -> None:
    """With a limit of three of its own, which counts for each tile."""
    (tmp_path / "file.onnx").touch()
    engine = BlobEngine(shape)
    runtime = Runtime(tmp_path / "file.onnx", engine=engine)
    pixels = scene((150, 200), BOXES).permute(1, 2, 0).numpy()
    found = runtime(pixels, tiles=True, batch_size=4)
    *exact, large = sorted(BOXES)
    assert sorted(found.boxes.tolist())[:4] == [[*map(float, box)] for box in exact]
    np.testing.assert_allclose(sorted(found.boxes.tolist())[4:], [large], atol=3)
    assert found.size == (150, 200)
    assert [shape[0] for shape in engine.passes] == passes
    assert len(runtime(pixels, tiles=True, batch_size=4, max_detections=2)) == 2
    assert len(runtime(pixels)) <= 3
    assert (runtime.most(), runtime.most(2), runtime.most(2, tiles=True)) == (3, 2, 2)
    assert runtime.most(tiles=True) > 10_000  # it is no limit of a picture, which `predict` would advise to raise
    small = scene((40, 64), [(8, 4, 24, 20)]).permute(1, 2, 0).numpy()
    plain, within = runtime([pixels, small], batch_size=2), runtime([small], tiles=True)
    assert within[0].boxes.tolist() == plain[1].boxes.tolist() == [[8, 4, 24, 20]]


# ------------------------------------------------------------------------------------------- with the shipped model
@pytest.fixture(scope="module")
def demo() -> headway.Detector:
    return headway.load(ASSETS / "demo.safetensors")


PHOTOS = sorted((DATA / "val").glob("*.jpg"))


def equal(one: Detections, other: Detections) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


def test_a_picture_within_a_tile_and_one_view_are_plain_to_the_bit(demo: headway.Detector) -> None:
    plain = predict(demo, PHOTOS[:2], threshold=0.05)
    assert all(len(found) > 3 for found in plain)
    for options in (
        {"tiles": 640},
        {"tiles": 2000, "overlap": 0.5},
        {"tta": "1"},
        {"tta": []},
        {"tiles": 640, "tta": "1"},
    ):
        found = predict(demo, PHOTOS[:2], threshold=0.05, **options)
        assert all(equal(one, other) for one, other in zip(found, plain)), options


def test_a_mirrored_picture_has_mirrored_boxes(demo: headway.Detector) -> None:
    """With the mirrored view both pictures are looked at in the same two ways."""
    pixels = read_image(PHOTOS[0])
    one, other = (predict(demo, image, threshold=0.1, tta="flip") for image in (pixels, pixels.flip(2)))
    x1, y1, x2, y2 = other.boxes.unbind(1)
    back = torch.stack([pixels.shape[2] - x2, y1, pixels.shape[2] - x1, y2], 1)
    assert len(one) == len(other) > 3
    torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
    assert pairwise_iou(one.boxes, back).amax(1).min() > 0.99


def both_ways(demo: headway.Detector, pixels: Tensor, **options: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, labels and views of a picture and of its mirrored one, all in pixels of the first."""
    one, other = predict(demo, pixels, **options), predict(demo, pixels.flip(2), **options)
    x1, y1, x2, y2 = other.boxes.unbind(1)
    boxes = torch.cat([one.boxes, torch.stack([pixels.shape[2] - x2, y1, pixels.shape[2] - x1, y2], 1)])
    view = torch.tensor([0] * len(one) + [1] * len(other))
    return boxes, torch.cat([one.scores, other.scores]), torch.cat([one.labels, other.labels]), view


def test_merging_is_one_suppression_of_all_candidates_or_fusion_of_all_boxes(demo: headway.Detector) -> None:
    """Put together here from predictions without augmentation."""
    pixels = read_image(PHOTOS[0])
    boxes, scores, labels, _ = both_ways(demo, pixels, threshold=0.1, nms_iou=None, max_detections=5000)
    kept = nms_per_class(boxes, scores, labels, demo.card.nms_iou)
    found = predict(demo, pixels, threshold=0.1, tta="flip")
    assert torch.equal(found.labels, labels[kept])
    torch.testing.assert_close(found.scores, scores[kept], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.boxes, boxes[kept], atol=1e-3, rtol=0)

    boxes, scores, labels, view = both_ways(demo, pixels, threshold=0.001)
    fused = fuse_boxes(*(x.double().numpy() for x in (boxes, scores, labels)), view.numpy(), 2, one_each=True)
    demo.head.fuses_views = True
    try:
        found = predict(demo, pixels, threshold=0.1, tta="flip")
    finally:
        del demo.head.fuses_views
    count = int((fused.scores > 0.1).sum())
    assert len(found) == count > 3
    np.testing.assert_allclose(found.scores.numpy(), fused.scores[:count], atol=1e-5)
    np.testing.assert_allclose(found.boxes.numpy(), fused.boxes[:count], atol=1e-2)


@pytest.mark.parametrize("head", ["faster_rcnn", "deformable_detr", "ttfnet"])
def test_final_boxes_of_real_heads_are_fused(head: str) -> None:
    """Random weights: one view gives the plain result to the bit, two give another one within the picture."""
    torch.manual_seed(0)
    path, more = {
        "faster_rcnn": ("resnet10t/fpn/faster_rcnn", {"fpn.channels": 32}),
        "deformable_detr": ("resnet10t/level_projection/deformable_detr", {"encoder_layers": 1, "decoder_layers": 1}),
        "ttfnet": ("resnet10t/upsample/ttfnet", {}),
    }[head]
    model = headway.create_model(path, num_classes=2, input_size=(64, 96), **more).eval()
    model.card.score_threshold = 0.0
    pixels = torch.randint(0, 256, (3, 80, 120), dtype=torch.uint8)
    plain, one, two = (predict(model, pixels, tta=tta) for tta in (None, "1", "flip"))
    assert equal(plain, one)
    assert len(two) > 0
    assert not equal(plain, two)
    assert two.boxes.min() >= 0
    assert (two.boxes <= torch.tensor([120.0, 80, 120, 80])).all()


def test_tiles_of_a_mosaic_find_what_the_photographs_hold(demo: headway.Detector) -> None:
    """Four photographs as one picture of 1280 x 960: tiles as large as a photograph find as much as was found in each,
    and much more than one look at the whole."""
    records = open_data(DATA)["val"].records[:4]
    photos = [record.sample().image for record in records]
    mosaic = torch.cat([torch.cat(photos[:2], 2), torch.cat(photos[2:], 2)], 1)
    shifts = [torch.tensor([x, y] * 2).float() for y in (0, 480) for x in (0, 640)]
    truth = torch.cat([torch.from_numpy(record.boxes) + shift for record, shift in zip(records, shifts)])
    labels = torch.cat([torch.from_numpy(record.labels) for record in records])

    def recall(found: Detections) -> float:
        overlap = pairwise_iou(truth, found.boxes) * (labels[:, None] == found.labels)
        return float((overlap.amax(1) >= 0.5).float().mean())

    singles = [(predict(demo, photo, threshold=0.2), shift) for photo, shift in zip(photos, shifts)]
    moved = Detections(
        torch.cat([found.boxes + shift for found, shift in singles]), torch.cat([found.scores for found, _ in singles]),
        torch.cat([found.labels for found, _ in singles]),
    )  # fmt: skip
    plain, tiled = (predict(demo, mosaic, threshold=0.2, batch_size=4, tiles=tiles) for tiles in (None, 640))
    assert recall(tiled) >= recall(moved) - 0.01
    assert recall(tiled) > recall(plain) + 0.1


def test_the_service_looks_in_the_same_views(demo: headway.Detector) -> None:
    pixels = read_image(PHOTOS[0])
    asked, plain = Asked(threshold=0.2), CheckpointEngine(demo, "demo")
    for options in ({"tiles": 400, "overlap": 0.1}, {"tiles": 640}):
        engine = CheckpointEngine(demo, "demo", tta=None, **options)
        items = [engine.prepare(pixels, asked), engine.prepare(pixels.clone(), asked)]
        assert (engine.key(items[0]) == engine.key(items[1])) == (options["tiles"] == 640)
        assert equal(engine.run(items[:1])[0], predict(demo, pixels, threshold=0.2, **options))
        assert engine.views["gates"](pixels, None) == plain.views["gates"](pixels, None)


def test_eval_in_views_gives_both_figures_and_the_price(demo: headway.Detector) -> None:
    data = open_data(DATA)["val"].subset([0, 1], "val")
    found = evaluate(demo, data, tiles=400, overlap=0.1)
    plain = evaluate(demo, data)
    assert found.plain is not None
    assert dict(found.plain) == dict(plain)
    assert found.AP != plain.AP
    assert found.price > 1
    assert found.to_dict()["plain"]["ap"] == plain.to_dict()["ap"]
    within = evaluate(demo, data, tiles=640)  # no picture is larger
    assert abs(within.AP - plain.AP) < 1e-6
    assert np.isfinite(within.price)
