"""The branches for tags and embeddings, which cells they learn from, and the figures of a data set."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import headway
from headway.data.batch import to_model_input
from headway.data.loader import make_loader
from headway.errors import HeadwayError
from headway.evaluate.run import measure
from headway.evaluate.tasks import detects, summary
from headway.heads import tasks
from headway.heads.tasks import EmbeddingBranch, TagBranch, embeddings_of, identity_loss, tags_loss
from headway.heads.yolo import YoloHead, match_grid
from headway.layers.implicit import Implicit
from headway.types import Levels, Target

ANCHORS = torch.tensor([[[8.0, 8.0]], [[32.0, 32.0]]])
STRIDES = (8, 16)
SIZES = [(8, 8), (4, 4)]  # of a picture of 64x64


def target(*boxes, ids=None, crowd=None, labels=None, tags=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64)
    ids = None if ids is None else torch.tensor(ids, dtype=torch.int64)
    crowd = None if crowd is None else torch.tensor(crowd)
    return Target(boxes, labels, crowd, ids, tags)


def numbered_maps(pictures=1):
    """Maps whose single value tells the place: 1000 * level + 10 * row + column, plus 10000 for each picture before."""
    maps = []
    for level, (rows, columns) in enumerate(SIZES):
        place = 1000 * level + 10 * torch.arange(rows)[:, None] + torch.arange(columns)
        maps.append(place + 10000 * torch.arange(pictures).view(-1, 1, 1, 1).float())
    return maps


def test_an_embedding_is_read_at_the_centre_on_the_level_of_its_size():
    """An 8x8 box about (20, 44) belongs to the first level, cell (row 5, column 2); a 32x32 box about (40, 24) to the
    second, cell (row 1, column 2). In the second picture a box beyond the lower right corner is read at the last cell.
    """
    boxes = [
        torch.tensor([[16.0, 40, 24, 48], [24, 8, 56, 40]]),
        torch.tensor([[62.0, 62.0, 70.0, 70.0]]),
    ]
    found = embeddings_of(numbered_maps(2), boxes, ANCHORS, STRIDES)
    assert found.tolist() == [[52.0], [1012.0], [10077.0]]
    assert embeddings_of(numbered_maps(), [torch.zeros(0, 4)], ANCHORS, STRIDES).shape == (0, 1)


def test_an_embedding_of_a_box_without_area_and_of_the_shape_not_the_area():
    """Width counts as much as height: 8x64 is a factor 8 from the one anchor and 4 from the other."""
    found = embeddings_of(numbered_maps(), [torch.tensor([[20.0, 0, 28, 64], [3, 3, 3, 3]])], ANCHORS, STRIDES)
    assert found.tolist() == [[1000 + 10 * 2 + 1], [0]]


def test_contrast_learns_from_every_matched_cell_once():
    """A box of 8x8 about (20, 44) is matched on the first level alone (32 / 8 is the forbidden ratio 4), at cell
    (5, 2) and perhaps a neighbour. With two equal anchors each cell is matched twice."""
    twice = ANCHORS.repeat(1, 2, 1)
    matched = match_grid([target([16, 40, 24, 48], ids=[3])], SIZES, twice, STRIDES)
    once = match_grid([target([16, 40, 24, 48])], SIZES, ANCHORS, STRIDES)
    assert len(matched.pairs[0].box) == 2 * len(once.pairs[0].box)
    rows, boxes = tasks._matched_rows(numbered_maps(), matched)
    assert len(rows) == len(matched.pairs[0].box) / 2
    assert 52.0 in rows.flatten().tolist()
    assert (boxes == 0).all()


def objects(first, second, ids=((1, 2), (1, 2))):
    """Two pictures with two objects each; the embeddings of the objects' cells [2, E] in each picture."""
    shape = ([16, 40, 24, 48], [48, 0, 56, 8])
    targets = [target(*shape, ids=ids[0]), target(*shape, ids=ids[1])]
    matched = match_grid(targets, SIZES, ANCHORS, STRIDES)
    maps = [torch.zeros(2, 2, *size) for size in SIZES]
    for picture, values in enumerate((first, second)):
        for (row, column), value in zip(((5, 2), (0, 6)), values):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= row + dy < 8 and 0 <= column + dx < 8:
                        maps[0][picture, :, row + dy, column + dx] = torch.tensor(value)
    return maps, matched


def test_identity_loss_is_the_contrast_times_weight_and_pictures():
    """Each object equal in both pictures and at right angles to the other. With n cells for each object in a picture, a
    row has n positives of s = 1 / 0.5 and 2n negatives of s = 0: the loss is log(n e^2 + 2n) - 2."""
    maps, matched = objects(((1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 1.0)))
    cells = len(matched.pairs[0].box) / 4
    expected = math.log(cells * math.exp(2) + 2 * cells) - 2
    loss = identity_loss(maps, matched, weight=0.3, temperature=0.5)
    torch.testing.assert_close(loss, torch.tensor(expected * 0.3 * 2))


def test_identity_loss_tells_right_from_wrong():
    right, wrong = (
        identity_loss(*objects(((1.0, 0.0), (0.0, 1.0)), second))
        for second in (((1.0, 0.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)))
    )
    assert wrong > 10 * right


@pytest.mark.parametrize("ids", [((1, 2), (3, 4)), (None, None)])
def test_identity_loss_without_pairs_or_ids_is_zero(ids):
    maps, matched = objects(((1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 1.0)), ids)
    maps = [x.requires_grad_() for x in maps]
    loss = identity_loss(maps, matched)
    loss.backward()
    assert loss == 0
    assert all((x.grad == 0).all() for x in maps)


def test_identity_loss_of_more_cells_than_the_limit(monkeypatch):
    maps, matched = objects(((1.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (0.0, 1.0)))
    seen = []
    contrast = tasks.identity_contrast
    monkeypatch.setattr(tasks, "identity_contrast", lambda rows, *rest: seen.append(len(rows)) or contrast(rows, *rest))
    monkeypatch.setattr(tasks, "MOST_ROWS", 3)
    assert torch.isfinite(identity_loss(maps, matched))
    assert seen == [3]


def test_tags_loss_by_hand_and_from_labels():
    """Zero logits cost log 2 for each tag; times weight and the two pictures. Labels stand in for missing tags: with
    logit log 3 the right answer costs log(4 / 3), and crowd regions count."""
    given = [target(tags=torch.tensor([1.0, 0.0])), target(tags=torch.tensor([0.0, 0.0]))]
    torch.testing.assert_close(tags_loss(torch.zeros(2, 2), given, weight=0.5), torch.tensor(math.log(2)))
    derived = [target([0, 0, 4, 4], [0, 0, 8, 8], labels=[1, 0], crowd=[False, True])]
    loss = tags_loss(torch.full((1, 2), math.log(3)), derived, weight=1.0)
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3)))


def test_embeddings_have_length_one_in_every_cell():
    branch = EmbeddingBranch((4, 6), 5)
    maps = branch([torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)])
    assert [tuple(x.shape) for x in maps] == [(2, 5, 8, 8), (2, 5, 4, 4)]
    for x in maps:
        torch.testing.assert_close(x.norm(dim=1), torch.ones_like(x[:, 0]))


@pytest.mark.parametrize("align", ["add", "mul", "concat", None])
@pytest.mark.parametrize("branch", [partial(TagBranch, num_tags=3), partial(EmbeddingBranch, size=5)])
def test_each_branch_has_an_implicit_of_its_own_for_each_level(align, branch):
    made = branch((4, 6), align=align)
    assert [m.channels for m in made.modules() if isinstance(m, Implicit)] == ([4, 6] if align else [])
    outputs = made([torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)])
    sum(x.square().sum() for x in ([outputs] if torch.is_tensor(outputs) else outputs)).backward()
    assert all(p.grad is not None for p in made.parameters())


def test_the_additive_vector_changes_the_tags_and_is_not_undone():
    """A batch norm behind it would subtract what is added to a whole channel."""
    branch, x = TagBranch((4,), 3).train(), [torch.randn(2, 4, 8, 8)]
    before = branch(x)
    with torch.no_grad():
        branch.convs[0].align.value += 1
    assert (branch(x) - before).abs().max() > 0.01


def make(**arguments):
    torch.manual_seed(0)
    return headway.create_model("yolor_s", num_classes=2, width=0.125, input_size=(64, 64), **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tags": True, "embedding": 8},
        {"tags": True, "embedding": 8, "align": None, "refine": None},
        {"tags": True, "detect": False},
        {"embedding": 8, "detect": False},
    ],
)
@pytest.mark.parametrize("boxes", [0, 1, 2])
@pytest.mark.parametrize("pictures", [1, 3])
def test_losses_are_finite_and_every_parameter_gets_a_gradient(arguments, boxes, pictures):
    model = make(**arguments)
    shape = ([5, 5, 25, 25], [30, 10, 60, 50])[:boxes]
    targets = [target(*shape, ids=list(range(boxes)), labels=list(range(boxes))) for _ in range(pictures)]
    losses = model.loss(model(torch.rand(pictures, 3, 64, 64)), targets)
    losses.total.backward()
    assert ("tags" in losses.terms, "identity" in losses.terms) == ("tags" in arguments, "embedding" in arguments)
    assert all(torch.isfinite(term) for term in losses.terms.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    if "embedding" in arguments:
        assert (losses.terms["identity"] > 0) == (pictures > 1 and boxes > 0)


def test_one_class():
    model = headway.create_model("yolor_s", num_classes=1, width=0.125, input_size=(64, 64), tags=True, embedding=4)
    losses = model.loss(model(torch.rand(2, 3, 64, 64)), [target([5, 5, 25, 25], ids=[0])] * 2)
    assert torch.isfinite(losses.total)


def test_detections_carry_the_embedding_of_their_cell_and_the_tags():
    """The embeddings of detections are among those of the maps, and folded as unfolded."""
    model = make(tags=True, embedding=8).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        raw = model(images)
        candidates = model.decode(raw)
    assert candidates.extras["embeddings"].shape == (*candidates.scores.shape, 8)
    every = torch.cat([x.flatten(2) for x in raw.embeddings], 2).transpose(1, 2)
    assert torch.cdist(candidates.extras["embeddings"], every).amin(2).max() < 1e-3
    found = model.detect(images, score_threshold=0.0)
    torch.testing.assert_close(torch.stack([f.tags for f in found]), raw.tags.sigmoid(), rtol=0, atol=1e-4)
    assert found[0].extras["embeddings"].shape == (len(found[0]), 8)


@pytest.mark.parametrize("detect", [True, False])
def test_fusing_folds_the_tasks_own_implicits(detect):
    model = make(tags=True, embedding=8, detect=detect).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Implicit):
                module.value.normal_(module.value.mean().item(), 0.5)
        fused = headway.fuse(model)
        images = torch.rand(1, 3, 64, 64)
        before, after = model(images), fused(images)
    assert not any(isinstance(module, Implicit) for module in fused.modules())
    torch.testing.assert_close(after.tags, before.tags, rtol=0, atol=1e-4)
    for x, y in zip(after.embeddings, before.embeddings):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4)


def test_a_model_without_boxes_finds_none_and_says_tags():
    model = make(tags=True, detect=False).eval()
    found = model.detect(torch.rand(2, 3, 64, 64))
    assert [len(f) for f in found] == [0, 0]
    assert found[0].tags.shape == (2,)
    assert not detects(model)
    assert detects(make())


def test_a_checkpoint_of_a_task_model_loads(tmp_path):
    model = make(tags=True, embedding=8)
    again = headway.load(headway.save(model, tmp_path / "a.safetensors")).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(images).tags, model.eval()(images).tags)


def test_a_model_without_any_task_is_refused():
    with pytest.raises(HeadwayError, match="needs a task"):
        make(detect=False)


# ------------------------------------------------------------------------------------------------- figures of a split
class ByColour(nn.Module):
    """Neck's maps that are the picture itself at strides 8 and 16."""

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, stride) for stride in STRIDES]


class Straight(nn.Module):
    """Tags: red and green anywhere. Embeddings: the colour."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features):
        if self.what == "tags":
            return features[0][:, :2].amax((2, 3)) * self.scale
        return [nn.functional.normalize(x * self.scale, dim=1) for x in features]


@pytest.fixture
def coloured(tmp_path):
    """Four pictures of 64x64. Red boxes in 0 and 1, green ones in 1 and 2, blue (which is no class) in none; each box
    has a hue of its own, left and right of it is black."""
    import numpy as np
    from PIL import Image

    from headway.data.dataset import DetectionData, Record

    hues = {0: [(0, (200, 0, 90))], 1: [(0, (220, 60, 0)), (1, (90, 200, 0))], 2: [(1, (0, 210, 120))], 3: []}
    records = []
    for number, objects in hues.items():
        pixels, boxes = np.zeros((64, 64, 3), np.uint8), []
        for place, (_, colour) in enumerate(objects):
            left = 8 + 24 * place
            pixels[16:32, left : left + 16] = colour
            boxes.append((left, 16, left + 16, 32))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        labels = np.array([label for label, _ in objects], np.int64)
        flags = np.zeros(len(boxes), bool)
        records.append(Record(number, tmp_path / f"{number}.png", (64, 64), boxes, labels, flags, flags + 256.0))
    return DetectionData("val", tmp_path, "coco", records, ("red", "green"), (1, 2))


def by_colour(**parts):
    from headway.detector import Detector
    from headway.types import ModelCard

    head = YoloHead(Levels(STRIDES, (3, 3)), num_classes=2, anchors=ANCHORS.tolist(), tags=True, detect=False)
    head.tags, head.embedding = parts.get("tags"), parts.get("embedding")
    card = ModelCard(
        class_names=("green", "red"), input_size=(64, 64), pad_multiple=16, mean=(0.0,) * 3, std=(255.0,) * 3
    )
    return Detector(nn.Identity(), ByColour(), head, card)


def test_a_model_that_sees_colours_finds_every_object_again(coloured):
    """The boxes are mirrored and scaled with the picture, so the colour at their centre is the same."""
    scores = measure(by_colour(embedding=Straight("embedding")), coloured, batch_size=3, tasks=True).tasks
    assert list(scores) == ["identity"]
    assert scores["identity"].details == {"queries": 4, "gallery": 4}
    assert summary(scores) == {"rank1": 1.0, "retrieval_map": 1.0}


def test_tags_are_compared_by_the_name_of_the_class(coloured):
    """The model's first tag is its class green, whose score is the red of the picture: 200, 220, 0, 0 for the pictures
    that have green in 1 and 2. Order 1 (has it), 0, then 2 and 3 equal: 1/2 * 1 + 1/2 * 2/4 = 3/4. Its second, red, has
    the green: 0, 200, 210, 0, red being in 0 and 1. Order 2, 1 (has it), then 0 and 3 equal: 1/2 * 1/2 + 1/2 * 2/4."""
    scores = measure(by_colour(tags=Straight("tags")), coloured, tasks=True).tasks
    assert list(scores) == ["tags"]
    green, red = ({"ap": pytest.approx(ap), "images": 2} for ap in (3 / 4, 1 / 2))
    assert scores["tags"].details == {"tags": {"green": green, "red": red}}
    assert summary(scores) == {"tag_map": pytest.approx(5 / 8)}


def test_a_model_without_further_tasks_has_no_figures(coloured):
    model = make()
    model.card.class_names = coloured.class_names
    assert measure(model, coloured, tasks=True).tasks == {}


@pytest.mark.slow
def test_tags_and_identities_of_one_batch_are_learned(coloured):
    """Four pictures twice, once mirrored. Tags end near certain, and each object is nearest to itself in the mirrored
    picture; before, its embedding says nothing."""
    torch.manual_seed(0)
    model = headway.create_model(
        "yolor_s", class_names=coloured.class_names, width=0.125, input_size=(64, 64), tags=True, embedding=8,
        detect=False,
    )  # fmt: skip
    batch = next(iter(make_loader(coloured, model.card, batch_size=4, train=False)))
    mirrored = [
        replace(t, boxes=torch.stack([64 - t.boxes[:, 2], t.boxes[:, 1], 64 - t.boxes[:, 0], t.boxes[:, 3]], 1))
        for t in batch.targets
    ]
    images, targets = (
        torch.cat([to_model_input(batch, "cpu"), to_model_input(batch, "cpu").flip(3)]),
        [*batch.targets, *mirrored],
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for _ in range(60):
        terms = model.loss(model(images), targets).terms
        history.append({name: float(term.detach()) for name, term in terms.items()})
        sum(terms.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert history[-1]["tags"] < 0.1 * history[0]["tags"]
    assert history[-1]["identity"] < 0.5 * history[0]["identity"]
    with torch.no_grad():
        raw = model(images)
    found = embeddings_of(raw.embeddings, [t.boxes for t in targets], model.head.anchors, model.head.strides)
    assert ((found[:4] @ found[4:].T).argmax(1) == torch.arange(4)).all()


class Exportable(nn.Module):
    """What a graph gives of the candidates, plain tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, sizes):
        candidates = self.model.decode(self.model(images, sizes))
        return candidates.scores, candidates.tags, *candidates.extras.values()


@pytest.mark.parametrize("detect", [True, False])
def test_export_gives_the_same_tags_and_embeddings(detect):
    model = Exportable(make(tags=True, embedding=8, detect=detect).eval())
    inputs = (torch.rand(2, 3, 64, 64), torch.tensor([[64, 64], [60, 50]]))
    program = torch.export.export(model, inputs).module()
    for exported, expected in zip(program(*inputs), model(*inputs)):
        torch.testing.assert_close(exported, expected, rtol=0, atol=1e-4)
