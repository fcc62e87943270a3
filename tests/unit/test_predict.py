"""Predictor: coordinates, batching and refusals; which files a list of inputs means."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import headway
from headway.errors import DataError, HeadwayError
from headway.predict import Predictor, find_images, predict
from headway.types import Detections, ModelCard


class WholePicture(nn.Module):
    """A detector that finds one box: the valid part of the picture, scored by its mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.card = ModelCard(class_names=("picture",), input_size=(32, 64), pad_multiple=16)
        self.weight = nn.Parameter(torch.ones(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        return images.mean() * self.weight

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        *,
        threshold: float | None = None,
        max_detections: int = 100,
        nms_iou: object = "card",
    ) -> list[Detections]:
        self.shapes.append(tuple(images.shape))
        boxes = [torch.tensor([[0.0, 0.0, float(w), float(h)]]) for h, w in sizes.tolist()]
        scores = [image[:, : int(h), : int(w)].mean().view(1) for image, (h, w) in zip(images, sizes.tolist())]
        return [Detections(b, s, torch.zeros(1, dtype=torch.int64), ("picture",)) for b, s in zip(boxes, scores)]


def picture(path: Path, width: int, height: int, value: int = 100, **save: object) -> Path:
    Image.new("RGB", (width, height), (value,) * 3).save(path, **save)
    return path


def test_boxes_are_in_original_pixels_and_given_order(tmp_path: Path) -> None:
    """Fitted into 32 x 64, 100x50 becomes 64x32 and 50x100 becomes 32x64, each exactly the original again."""
    shapes = [(100, 50), (50, 100), (100, 50), (30, 30)]
    paths = [picture(tmp_path / f"{i}.png", w, h, value=10 * i) for i, (w, h) in enumerate(shapes)]
    found = Predictor(WholePicture(), batch_size=2)(paths)  # type: ignore[arg-type]
    boxes = torch.cat([d.boxes for d in found])
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, w, h] for w, h in shapes]))
    assert [round(float(d.scores[0]) * 255) for d in found] == [0, 10, 20, 30]


def test_only_equal_padded_shapes_share_a_batch(tmp_path: Path) -> None:
    model = WholePicture()
    shapes = [(100, 50), (50, 100), (100, 50), (100, 48), (100, 50)]
    paths = [picture(tmp_path / f"{i}.png", w, h) for i, (w, h) in enumerate(shapes)]
    Predictor(model, batch_size=3, fuse=False)(paths)  # type: ignore[arg-type]
    assert model.shapes == [(3, 3, 32, 64), (1, 3, 32, 64), (1, 3, 64, 32)]


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: stored 40 x 20, meant 20 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "turned.jpg", 40, 20, exif=exif)
    assert Predictor(WholePicture())(path)[0].boxes[0].tolist() == [0, 0, 20, 40]  # type: ignore[arg-type]


def test_tensors_and_files_give_the_same(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 60, 40, value=77)
    predictor = Predictor(WholePicture())  # type: ignore[arg-type]
    of_file, of_pixels = predictor([path, torch.full((3, 40, 60), 77, dtype=torch.uint8)])
    assert of_file.boxes.tolist() == of_pixels.boxes.tolist()
    assert of_file.scores.tolist() == of_pixels.scores.tolist()


def test_a_broken_file_is_reported_in_its_place(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "a.png", 40, 20), tmp_path / "broken.png", picture(tmp_path / "c.png", 20, 40)]
    paths[1].write_bytes(b"no picture")
    first, second, third = Predictor(WholePicture(), batch_size=4).predict_paths(paths)  # type: ignore[arg-type]
    assert [p.path for p in (first, second, third)] == paths
    assert first.detections is not None
    assert third.detections is not None
    assert third.detections.boxes[0].tolist() == [0, 0, 20, 40]
    assert (second.image, second.detections) == (None, None)
    assert "broken.png is not a picture" in second.error


def test_a_batch_is_equal_to_single_pictures() -> None:
    """With a real Dynamic Head; its pooling sees padding, which is why only equal shapes share a batch."""
    torch.manual_seed(0)
    model = headway.create_model("atss_r18_fpn_dyhead", num_classes=2, blocks=1, channels=32, input_size=(64, 96))
    shapes = [(40, 60), (60, 40), (40, 60), (50, 60)]
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in shapes]
    singles = Predictor(model, threshold=0.001)(images)
    together = Predictor(model, batch_size=4, threshold=0.001)(images)
    for one, other in zip(singles, together):
        assert len(one) > 0
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def demo() -> headway.Detector:
    return headway.load(Path(headway.__file__).parent / "assets" / "demo.safetensors")


PHOTO = next((Path(headway.__file__).parent / "assets" / "bccd-mini" / "val").glob("*.jpg"))


def same(one: Detections, other: Detections) -> bool:
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)


def test_every_form_of_a_picture_gives_the_same_to_the_bit(demo: headway.Detector) -> None:
    """Failed before for all but the path and the tensor."""
    pil = Image.open(PHOTO)
    array = np.array(pil)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    first = predict(demo, PHOTO)
    stream = io.BytesIO(PHOTO.read_bytes())
    in_memory = [PHOTO.read_bytes(), stream, pil, array, tensor, tensor.float() / 255, array / 255.0]
    forms = [str(PHOTO), PHOTO.as_uri(), *in_memory]
    assert len(first) > 3
    assert first.source == str(PHOTO)
    assert first.size == array.shape[:2]
    for form in forms:
        assert same(predict(demo, form), first)
    stream.seek(0)
    several = predict(demo, iter(forms), batch_size=3)
    assert len(several) == len(forms)
    assert all(close(found, first) for found in several)


def close(one: Detections, other: Detections) -> bool:
    """Equal but for what a batch rounds differently."""
    return torch.allclose(one.boxes, other.boxes, atol=0.01) and torch.allclose(one.scores, other.scores, atol=1e-4)


def test_one_gives_one_and_several_give_a_list_in_order(demo: headway.Detector) -> None:
    tensor = torch.from_numpy(np.array(Image.open(PHOTO))).permute(2, 0, 1)
    one = predict(demo, tensor)
    assert isinstance(one, Detections)
    assert isinstance(predict(demo, [tensor]), list)
    batch = predict(demo, torch.stack([tensor, tensor.flip(2)]))
    assert len(batch) == 2
    assert same(batch[0], one)
    assert same(batch[1], predict(demo, tensor.flip(2)))
    assert predict(demo, []) == []


def test_options_of_a_call(demo: headway.Detector) -> None:
    found = predict(demo, PHOTO, threshold=0.2)
    assert len(found) > 5
    assert found.scores.min() > 0.2
    two = predict(demo, PHOTO, threshold=0.2, max_detections=2)
    assert torch.equal(two.scores, found.scores[:2])
    name = found[-1].name
    chosen = predict(demo, PHOTO, threshold=0.2, classes=[name], max_detections=1)
    assert [d.name for d in chosen] == [name]
    assert chosen[0].score == max(d.score for d in found if d.name == name)


def test_the_mode_of_every_module_is_kept(demo: headway.Detector) -> None:
    demo.train()
    demo.head.eval()
    try:
        trained = predict(demo, PHOTO)
        assert demo.training
        assert demo.neck.training
        assert not demo.head.training
    finally:
        demo.eval()
    assert same(trained, predict(demo, PHOTO))


def test_the_predictor_folds_once_and_leaves_the_model_alone(demo: headway.Detector) -> None:
    norms = [m for m in demo.modules() if isinstance(m, nn.BatchNorm2d)]
    predictor = Predictor(demo)
    assert norms
    assert norms == [m for m in demo.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [m for m in predictor.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert close(predictor(PHOTO)[0], predict(demo, PHOTO))


def test_hooks_of_a_model_see_the_call(demo: headway.Detector) -> None:
    seen: list[int] = []
    hook = demo.neck.register_forward_hook(lambda *_: seen.append(1))
    Predictor(demo)(PHOTO)
    hook.remove()
    assert seen == [1]


def test_detections_plot_and_save_from_what_they_know(demo: headway.Detector, tmp_path: Path) -> None:
    array = np.array(Image.open(PHOTO))
    of_path, of_array = predict(demo, [PHOTO, array])
    assert of_path.plot().size == of_array.plot().size == Image.open(PHOTO).size
    assert of_path.save(tmp_path / "a.png").is_file()


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(HeadwayError, match="fp16 needs a GPU"):
        Predictor(WholePicture(), "cpu", "fp16")  # type: ignore[arg-type]
    for options, message in [
        ({"batch_size": 0}, "batch_size must be a whole number at least 1, got 0"),
        ({"threshold": 30}, r"threshold must be a number in 0\.\.1, got 30"),
        ({"max_detections": 0}, "max_detections must be a whole number at least 1, got 0"),
        ({"batch_size": "2"}, "batch_size must be a whole number at least 1, got '2'"),
        ({"threshold": "0.3"}, r"threshold must be a number in 0\.\.1, got '0.3'"),
        ({"threshold": float("nan")}, r"threshold must be a number in 0\.\.1, got nan"),
        ({"max_detections": 2.5}, "max_detections must be a whole number at least 1, got 2.5"),
        ({"classes": [1]}, r"a class's label must be a whole number in 0\.\.0, got 1"),
        ({"nms_iou": "none"}, r"nms_iou \(None: no suppression\) must be a number in 0..1, got 'none'"),
        ({"classes": ["pictur"]}, "there is no class 'pictur'; did you mean picture"),
    ]:
        with pytest.raises(HeadwayError, match=message):
            Predictor(WholePicture(), **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("in/b.jpg", "in/a.PNG", "in/notes.txt", "in/deep/c.jpeg"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "recursive", "expected"),
    [
        (["in"], False, ["in/a.PNG", "in/b.jpg"]),
        (["in"], True, ["in/a.PNG", "in/b.jpg", "in/deep/c.jpeg"]),
        (["in/*.jpg"], False, ["in/b.jpg"]),
        (["in/**/*.jp*"], False, ["in/b.jpg", "in/deep/c.jpeg"]),
        (["in/b.jpg", "in"], False, ["in/b.jpg", "in/a.PNG"]),  # each once
        (["in/notes.txt"], False, ["in/notes.txt"]),  # named outright: reading it will say what is wrong
        (["in/b.jpg", "gone.jpg"], False, ["in/b.jpg", "gone.jpg"]),
    ],
)
def test_which_files_are_meant(folder: Path, inputs: list[str], recursive: bool, expected: list[str]) -> None:
    assert [p.as_posix() for p in find_images(inputs, recursive=recursive)] == expected


def test_absolute_patterns(folder: Path) -> None:
    assert find_images([f"{folder}/in/*.jpg"]) == [folder / "in" / "b.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.jpg", "no file or folder gone.jpg"), ("in/*.bmp", "no picture matches"), ("empty", "holds no picture")],
)
def test_nothing_at_all(folder: Path, name: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_images([name])
