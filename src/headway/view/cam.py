"""Which pixels raised the score of a detection, for any backbone, neck and head.

The gradient of the detection's final score is taken at every map of the backbone, through neck, head and decoding, and
multiplied with the map: cell by cell and channel by channel, as ODAM does (arXiv 2304.06354, equation 4). Summed over
the channels that is, to first order, what a cell adds to the score; the positive part is the heat.

Differs: all maps of the backbone count, not one. Each is brought to the grid of the finest by its density, the heat of
a cell divided by its area, and they are added. ODAM smooths the gradient, which is left out.

`deletion` checks what the heat says: the score without the hottest pixels, and without as many pixels elsewhere.

Legend: K candidates, h x w cells of one map, H x W pixels of the network's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones.swin import SwinBlock
from ..backbones.vit import ViTBlock
from ..boxes import pairwise_iou
from ..data.batch import collate, to_model_input
from ..detector import Detector, keeping_modes
from ..errors import HeadwayError
from ..predict import ImageLike, Predictor, read_picture
from ..types import Candidates, Detection, Detections, Frame
from .scene import Heat, Point, Scene, Sheet, stride_of

SAME = 0.5  # overlap from which a box without some pixels is the one that was explained
AREA = 0.5  # of the box: how many pixels are removed in the check
PLACES = 8  # random places to which they are moved
_MOST = 1000  # detections among which one at a pixel is sought


class Deletion(NamedTuple):
    """The score of the detection in the whole picture, without its hottest pixels, and without as many in the same
    arrangement at each of some random places. share: of the picture that is removed."""

    before: float
    marked: float
    elsewhere: tuple[float, ...]
    share: float

    @property
    def random(self) -> float:
        """Mean score without pixels at a random place."""
        return sum(self.elsewhere) / len(self.elsewhere)


@dataclass(frozen=True, slots=True)
class Cam:
    """One detection. heat: of all levels, on the finest one's grid; levels: of each map of the backbone by its stride,
    finest first. Heat is the part of the score that a cell adds, to first order. shares: of the heat by stride."""

    detection: Detection
    heat: Heat
    levels: dict[int, Heat]
    shares: dict[int, float]
    deletion: Deletion


class Look(NamedTuple):
    """One photograph as the network sees it. images [1, 3, H, W]; sizes [1, 2]; found: its detections in pixels of the
    input, whose extras name their candidates; scene: with the detections in pixels of the photograph."""

    images: Tensor
    sizes: Tensor
    maps: list[Tensor]
    candidates: Candidates
    found: Detections
    scene: Scene


def explain(
    model: Detector, image: ImageLike, pixels: Sequence[Point] = (), *, best: int = 3, seed: int = 0
) -> tuple[Scene, list[Cam]]:
    """What raised the scores of chosen detections in `image` (a path or a [3, H, W] uint8 tensor).

    pixels: (x, y) of the photograph, each for the best detection whose box holds it; none: the `best` best detections,
        those that score 0.3 and more, or else the first alone.
    seed: of the random places of the check.

    Raises: HeadwayError where nothing is found, or nothing at a pixel; DataError for a picture that cannot be read.
    """
    with keeping_modes(model):
        look = _look(model, image)
        chosen = _choose(look.scene, pixels, best)
        generator = torch.Generator().manual_seed(seed)
        return look.scene, [_explain(model, look, number, generator) for number in chosen]


def _look(model: Detector, image: ImageLike) -> Look:
    """Run the photograph once, with a graph from the maps of the backbone to the candidates."""
    pixels = read_picture(image).pixels
    predictor = Predictor(model, fuse=False)
    item = predictor.prepare(pixels)
    batch = collate([item], model.card.pad_value, model.card.pad_multiple)
    images, sizes = to_model_input(batch, predictor.device), batch.sizes.to(predictor.device)
    with torch.no_grad():
        maps = [x.detach().requires_grad_() for x in model.backbone(model.normalize(images))]
    with torch.enable_grad():
        features = [x.clone() for x in maps]  # which a neck may change in place
        candidates = model.decode(model.head(model.neck(features), Frame(sizes, (images.shape[2], images.shape[3]))))
    number = torch.arange(candidates.scores.shape[1], device=candidates.scores.device)
    with torch.no_grad():
        numbered = candidates._replace(extras={"candidate": number[None]})
        found = model.select(numbered, 0.0, max_detections=_MOST)[0].to("cpu")  # a weak score has its reasons too
    if not len(found):
        raise HeadwayError("nothing is found in this photograph, so there is no score to explain")
    scale = (float(item.meta.affine[0]), float(item.meta.affine[1]))
    size = (int(images.shape[2]), int(images.shape[3]))
    scene = Scene(pixels.cpu(), scale, size, found.to_original(item.meta), None)
    return Look(images, sizes, maps, candidates, found, scene)


def _choose(scene: Scene, pixels: Sequence[Point], best: int) -> list[int]:
    """Numbers of the detections to explain."""
    if not pixels:
        return list(range(min(best, max(len(scene.confident()), 1))))
    chosen = []
    for x, y in pixels:
        x1, y1, x2, y2 = scene.detections.boxes.T
        holding = ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).nonzero().flatten().tolist()
        if not holding:
            first = ", ".join(f"{value:.0f}" for value in scene.detections.boxes[0].tolist())
            raise HeadwayError(
                f"no detection holds the pixel {x:g},{y:g}; the best of {len(scene.detections)} is at {first} "
                "(x1, y1, x2, y2)"
            )
        chosen.append(holding[0])
    return list(dict.fromkeys(chosen))


def _explain(model: Detector, look: Look, number: int, generator: torch.Generator) -> Cam:
    candidate = int(look.found.extras["candidate"][number])
    score = look.candidates.scores[0, candidate]
    gradients = torch.autograd.grad(score, look.maps, retain_graph=True, allow_unused=True)
    scene, patches = look.scene, is_patches(model)
    x1, y1, x2, y2 = scene.detections.boxes[number].tolist()
    levels, densities = {}, []
    finest = max((tuple(map(int, x.shape[2:])) for x in look.maps), key=lambda size: size[0])
    for x, gradient in zip(look.maps, gradients):
        values = torch.zeros_like(x[0, 0]) if gradient is None else (gradient * x).sum(1)[0].clamp(min=0)
        values = values.detach().float().cpu()
        stride = stride_of(scene.input_size, (int(values.shape[0]), int(values.shape[1])))
        levels[stride] = scene.heat(values, patches=patches, box=(x1, y1, x2, y2))
        densities.append(spread(values / stride**2, stride, finest, scene.input_size, patches=patches))
    total = torch.stack(densities).sum(0)
    sums = {stride: float(heat.values.sum()) for stride, heat in levels.items()}
    whole = sum(sums.values()) or 1.0
    return Cam(
        scene.detections[number],
        scene.heat(total, patches=patches, box=(x1, y1, x2, y2)),
        levels,
        {stride: value / whole for stride, value in sums.items()},
        deletion(model, look, number, in_pixels(total, look, patches), generator),
    )


def is_patches(model: Detector) -> bool:
    """Whether a cell of the backbone's maps covers a patch, or is centred on its corner; see `Scene.heat`."""
    return any(isinstance(module, (SwinBlock, ViTBlock)) for module in model.backbone.modules())


def spread(values: Tensor, stride: int, size: tuple[int, int], input_size: tuple[int, int], *, patches: bool) -> Tensor:
    """A map [h, w] of `stride` on another grid of `size` over the same input, bilinear: every cell's centre stays where
    it is."""
    if tuple(values.shape) == size:
        return values
    step = stride_of(input_size, size)
    first, ours = (step / 2, stride / 2) if patches else (0.5, 0.5)
    places = []
    for cells, count in zip(values.shape, size):
        index = (torch.arange(count) * step + first - ours) / stride  # in cells of `values`
        places.append(2 * index / max(cells - 1, 1) - 1)
    y, x = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([x, y], 2)[None]
    return F.grid_sample(values[None, None], grid, padding_mode="border", align_corners=True)[0, 0]


def in_pixels(values: Tensor, look: Look, patches: bool) -> Tensor:
    """A map of the finest grid as [H, W] pixels of the network's input; the padding has none."""
    size = look.scene.input_size
    stride = stride_of(size, (int(values.shape[0]), int(values.shape[1])))
    heat = spread(values, stride, size, size, patches=patches)
    height, width = look.sizes[0].tolist()
    heat[height:] = heat[:, width:] = -1.0
    return heat


# --------------------------------------------------------------------------------------------------------- the check
@torch.no_grad()
def deletion(model: Detector, look: Look, number: int, heat: Tensor, generator: torch.Generator) -> Deletion:
    """Remove the hottest pixels, as many as half the box has, and see what becomes of the score; and at `PLACES` random
    places, to which the same arrangement of pixels is moved around the picture's edges.

    heat: [H, W], negative where there is no picture. Removed pixels get the picture's mean colour.
    """
    height, width = look.sizes[0].tolist()
    box, label = look.found.boxes[number], int(look.found.labels[number])
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    count = min(max(int(AREA * area), 1), height * width // 2)
    marked = torch.zeros(height * width, dtype=torch.bool)
    marked[heat[:height, :width].flatten().topk(count).indices] = True
    marked = marked.view(height, width)
    scores = []
    for place in range(PLACES + 1):
        shifts = [int(torch.randint(side, (), generator=generator)) for side in (height, width)]
        mask = marked.roll(shifts, (0, 1)) if place else marked
        scores.append(score_without(model, look, mask, box, label))
    before = float(look.found.scores[number])
    return Deletion(before, scores[0], tuple(scores[1:]), count / (height * width))


def score_without(model: Detector, look: Look, mask: Tensor, box: Tensor, label: int) -> float:
    """The best score of a candidate of class `label` that overlaps `box`, in the picture without some of its pixels.

    mask: [h, w] bool of the picture without padding. box: [4] in pixels of the network's input.
    """
    images = look.images.clone()
    inside = images[0, :, : mask.shape[0], : mask.shape[1]]
    inside[:] = torch.where(mask.to(images.device), inside.mean((1, 2), keepdim=True), inside)
    candidates = model.decode(model(images, look.sizes))
    same = candidates.labels[0] == label
    same &= pairwise_iou(candidates.boxes[0].float(), box[None].to(images.device))[:, 0] >= SAME
    scores = candidates.scores[0][same]
    return float(scores.max()) if len(scores) else 0.0


# --------------------------------------------------------------------------------------------------------- results
def sheet(scene: Scene, cams: Sequence[Cam]) -> Sheet:
    """A row for each detection: the heat of all levels, and that of each."""
    strides = list(cams[0].levels)
    columns = ("all levels", *(f"stride {stride}" for stride in strides))
    rows = []
    for cam in cams:
        found, gone = cam.detection, cam.deletion
        label = f"{found.name} {found.score:.2f}\nwithout: {gone.marked:.2f}\nelsewhere: {gone.random:.2f}"
        rows.append((label, (cam.heat, *(cam.levels[stride] for stride in strides))))
    caption = (
        "Which pixels raised the score of the framed detection. Without: its score when the hottest pixels are "
        "removed, half as many as the box has; elsewhere: when as many are removed at random places."
    )
    return Sheet("cam", caption, columns, tuple(rows), [numbers(cam) for cam in cams])


def numbers(cam: Cam) -> dict[str, Any]:
    """Plain numbers of one detection for a JSON file."""
    heat, found, gone = cam.heat, cam.detection, cam.deletion
    inside = heat.values[heat.inside(torch.tensor([found.box]))[0]].sum() / heat.values.sum().clamp(min=1e-12)
    row, column = divmod(int(heat.values.argmax()), int(heat.values.shape[1]))
    peak = [round(first + step * n, 1) for first, step, n in zip(heat.first, heat.step, (column, row))]
    return {
        "class": found.name, "score": round(found.score, 4), "box": [round(v, 2) for v in found.box],
        "peak": peak, "inside": round(float(inside), 4),
        "levels": {str(stride): round(share, 4) for stride, share in cam.shares.items()},
        "removed": round(gone.share, 4), "without": round(gone.marked, 4), "elsewhere": round(gone.random, 4),
        "places": [round(score, 4) for score in gone.elsewhere],
    }  # fmt: skip
