"""What `headway view attention` shows, against the attentions of the forward pass put together by hand."""

from pathlib import Path

import pytest
import torch

import headway
from headway.backbones.swin import SwinBlock
from headway.data.dataset import DetectionData
from headway.errors import HeadwayError
from headway.layers.windows import join_windows
from headway.necks.dyhead import DyHead
from headway.predict import Predictor
from headway.types import Detections
from headway.view.attention import look, to_dict
from headway.view.attention_drawing import strength
from headway.view.attention_tokens import numbers_of, watch_tokens
from headway.view.gates import Gates, gates_over, gates_to_dict, ratios_by_level, watched_gates
from headway.view.scene import Scene, Watcher, run_photograph

PHOTO = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small(name: str, **arguments):
    torch.manual_seed(0)
    return headway.create_model(name, num_classes=2, input_size=(96, 128), **arguments).eval()


@pytest.fixture(scope="module")
def dyhead():
    model = small("atss_r18_fpn_dyhead", channels=32)
    for name, parameter in model.named_parameters():
        if ".scale.gate" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


# -------------------------------------------------------------------------------------------------------------- scene
def scene_of(boxes, scores, scale=(0.5, 0.5)) -> Scene:
    found = Detections(
        torch.tensor(boxes).view(-1, 4), torch.tensor(scores), torch.zeros(len(scores), dtype=torch.long)
    )
    return Scene(torch.zeros(3, 64, 64, dtype=torch.uint8), scale, (32, 32), found, None)


def test_where_a_map_lies():
    """A photograph of 64 x 64 at half its size: cells of stride 8 are 16 of its pixels apart. Convolutions centre the
    first one on pixel 0 of the input, its centre at 0.5 / 0.5 = 1; patches on 4 / 0.5 = 8."""
    scene = scene_of([], [])
    heat = scene.heat(torch.zeros(4, 4))
    assert (heat.step, heat.first, heat.extent()) == ((16, 16), (1, 1), (-7, 57, 57, -7))
    patch = scene.heat(torch.zeros(4, 4), patches=True)
    assert (patch.first, patch.extent()) == ((8, 8), (0, 64, 64, 0))
    assert scene.cell((40, 8), (4, 4)) == (0, 2)
    assert scene.cell((40, 8), (4, 4), patches=True) == (0, 2)
    assert scene.cell((63, 63), (4, 4)) == (3, 3)
    with pytest.raises(HeadwayError, match="pixel 64,0 lies outside the photograph of 64 x 64"):
        scene.cell((64, 0), (4, 4))


def test_focus_is_the_mean_inside_over_the_mean_outside():
    """One confident box holds the centres of cells (0, 0) and (0, 1); the doubtful one does not count."""
    scene = scene_of([[0.0, 0, 20, 10], [30, 30, 64, 64]], [0.9, 0.2])
    values = torch.ones(4, 4)
    values[0, :2] = torch.tensor([3.0, 5.0])
    assert scene.focus(scene.heat(values)) == pytest.approx(4.0)
    assert scene_of([], []).focus(scene.heat(values)) is None
    assert scene.default_pixel() == (10, 5)
    assert scene_of([], []).default_pixel() == (32, 32)


def test_cells_of_the_photograph_on_and_off_objects():
    """A photograph 40 wide and 64 high on an input of 32 x 32 pixels: the cells at x = 1, 17 and 33 lie on it, the one
    at 49 on padding. The box from 10, 0 to 64, 20 holds the centres (17, 1), (17, 17), (33, 1) and (33, 17)."""
    found = Detections(torch.tensor([[10.0, 0, 64, 20]]), torch.tensor([0.9]), torch.zeros(1, dtype=torch.long))
    scene = Scene(torch.zeros(3, 64, 40, dtype=torch.uint8), (0.5, 0.5), (32, 32), found, None)
    on_objects, elsewhere = scene.split(scene.heat(torch.zeros(4, 4)))
    assert on_objects.int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert elsewhere.int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_a_photograph_that_did_not_run_through_the_watched_modules_is_an_error(monkeypatch):
    """A copy of the network would leave hooks without a call, or with those of another picture."""
    model = small("atss_r18_fpn", channels=64)
    scene = run_photograph(model, PHOTO)
    assert (scene.input_size, scene.scale) == ((96, 128), (1.0, 1.0))
    assert torch.equal(scene.image, PHOTO)
    detect = type(model).detect
    copy = small("atss_r18_fpn", channels=64)
    monkeypatch.setattr(type(model), "detect", lambda self, *args, **more: detect(copy, *args, **more))
    with pytest.raises(ValueError, match="not enough values to unpack"):
        run_photograph(model, PHOTO)


@pytest.mark.parametrize("name", ["detr_tiny", "deformable_detr_tiny"])
def test_maps_of_detr_are_the_last_of_its_inputs(name):
    """With or without a map of the picture in front of them."""
    model = small(name)
    levels = 1 if name == "detr_tiny" else 3
    maps = [torch.zeros(1, 8, 6 - i, 8 - i) for i in range(levels)]
    for features in (maps, [torch.zeros(1, 1, 96, 128), *maps]):
        with Watcher() as watcher:
            finish = watch_tokens(model, watcher)[-1]
            finish.__self__._note_sizes((features,), None)
        assert finish.__self__.sizes == [(6 - i, 8 - i) for i in range(levels)]


def test_strength_spans_what_is_positive():
    assert strength(torch.tensor([[0.0, 2.0], [3.0, 4.0]])).tolist() == [[0, 0], [0.5, 1]]
    assert strength(torch.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


# ------------------------------------------------------------------------------------------------------- Dynamic Head
@pytest.mark.parametrize("form", ["released", "paper"])
def test_maps_of_dynamic_head_before_and_after(form, dyhead):
    model = dyhead if form == "released" else small("atss_r18_fpn_dyhead", channels=32, form="paper")
    found = look(model, PHOTO, stride=8 if form == "released" else None)
    seen = {}
    neck = next(m for m in model.modules() if isinstance(m, DyHead))
    watcher = Watcher()
    watcher.on(neck, lambda inputs, output: seen.update(before=inputs[0], after=output))
    watcher.on(neck.blocks[0], lambda inputs, output: seen.update(first=output))
    Predictor(model)(PHOTO)
    watcher.close()
    blocks, attentions = found.sheets
    assert (blocks.name, blocks.columns) == ("blocks", ("before", "block 1", "block 2"))
    assert len(blocks.rows) == 5
    for level, (_, heats) in enumerate(blocks.rows):
        for heat, maps in zip(heats, (seen["before"], seen["first"])):
            torch.testing.assert_close(heat.values, maps[level][0].square().mean(0).sqrt())
    order = ("before", "spatial", "scale", "task") if form == "released" else ("before", "scale", "spatial", "task")
    assert attentions.columns == order
    last = attentions.rows[0][1][-1].values  # the last attention is what the block puts out
    level = 0 if form == "released" else 1
    torch.testing.assert_close(last, seen["first"][level][0].square().mean(0).sqrt())
    if form == "released":
        assert torch.equal(attentions.rows[1][1][0].values, blocks.rows[0][1][1].values)
        assert not torch.equal(attentions.rows[0][1][1].values, attentions.rows[0][1][2].values)
    numbers = to_dict(found)
    assert numbers["size"] == [128, 96]
    assert [row["after"] for row in numbers["sheets"]["attentions"]] == [*order, *order]
    with pytest.raises(HeadwayError, match="there is no level of stride 12; there are "):
        look(model, PHOTO, stride=12)


def test_gates_of_the_released_form(dyhead):
    """The gate of each neighbour, from the maps that the spatial attention gave."""
    block = next(m for m in dyhead.modules() if isinstance(m, DyHead)).blocks[1]
    maps = []
    watcher = Watcher()
    watcher.on(block.spatial, lambda inputs, output: maps.append(output))
    with torch.no_grad(), watched_gates(dyhead) as found:
        dyhead(torch.rand(2, 3, 96, 128))
    watcher.close()
    assert [(g.block, g.level) for g in found] == [(b, level) for b in range(2) for level in range(5)]
    assert [list(g.values) for g in found[5:]] == [
        ["own", "coarser"], *[["own", "finer", "coarser"]] * 3, ["own", "finer"]
    ]  # fmt: skip
    for gates, given in zip(found[5:], maps):
        for value, x in zip(gates.values.values(), given):
            z = torch.einsum("bc,c->b", x.mean((2, 3)), block.scale.gate.weight[0, :, 0, 0]) + block.scale.gate.bias
            torch.testing.assert_close(value, (z.clamp(min=0) + 3).clamp(0, 6).detach() / 6)
    middle = found[6]
    torch.testing.assert_close(middle.ratio(), middle.values["finer"] / middle.values["coarser"])
    torch.testing.assert_close(found[9].ratio(), found[9].values["finer"] / found[9].values["own"])


def test_gates_of_the_papers_form():
    model = small("atss_r18_fpn_dyhead", channels=32, form="paper")
    block = next(m for m in model.modules() if isinstance(m, DyHead)).blocks[0]
    seen = []
    watcher = Watcher()
    watcher.on(block.scale, lambda inputs, output: seen.append(block.scale.gates(inputs[0])))
    with torch.no_grad(), watched_gates(model) as found:
        model(torch.rand(2, 3, 96, 128))
    watcher.close()
    for level in range(5):
        assert torch.equal(found[level].values["own"], seen[0][:, level])
    assert torch.equal(found[2].values["finer"], seen[0][:, 1])
    assert torch.equal(found[2].values["coarser"], seen[0][:, 3])


def test_statistics_of_gates():
    """Ratios 2 and 1/2 in one block, 1 and infinity in the other, which does not count: mean 3.5 / 3."""
    found = [
        Gates(0, 0, {"own": torch.tensor([1.0, 0.5]), "coarser": torch.tensor([0.5, 1.0])}),
        Gates(1, 0, {"own": torch.tensor([1.0, 1.0]), "coarser": torch.tensor([1.0, 0.0])}),
    ]
    assert ratios_by_level(found)[0].tolist() == [2.0, 0.5, 1.0]
    numbers = gates_to_dict(found)
    assert numbers["pictures"] == 2
    assert numbers["levels"][0]["ratio"]["mean"] == pytest.approx(3.5 / 3)
    assert numbers["levels"][0]["level"] == 1  # counted as in the picture
    assert (numbers["blocks"][0]["block"], numbers["blocks"][0]["level"]) == (1, 1)
    assert sum(numbers["levels"][0]["counts"]) == 3
    assert numbers["edges"][0] < 0.0 < 2.0 < numbers["edges"][-1]
    assert numbers["blocks"][0]["own"] == {"mean": 0.75, "std": 0.25}
    assert "finer" not in numbers["blocks"][0]


def test_gates_over_nothing_to_gate():
    with pytest.raises(HeadwayError, match="atss_r18_fpn has no scale gates"):
        gates_over(small("atss_r18_fpn", channels=32), DetectionData("val", Path(), "coco", [], ("a", "b"), (1, 2)))


# ------------------------------------------------------------------------------------------------- Swin, ViT and DETR
def test_a_token_of_swin_makes_the_output():
    """The last, shifted block: the values of all cells, weighed by what the token gives to each, through the output
    layer, are what the attention adds at that cell."""
    model = small("atss_swin_nano_fpn_dyhead", channels=32)
    name, block = [(n, m) for n, m in model.named_modules() if isinstance(m, SwinBlock)][5]
    assert any(block.shift)
    seen = {}
    watcher = Watcher()
    watcher.on(block.norm1, lambda inputs, output: seen.update(x=output))
    watcher.on(block.attn, lambda inputs, output: seen.setdefault("y", output))
    found = look(model, PHOTO, [(77, 33)])
    watcher.close()
    (sheet,) = [s for s in found.sheets if s.name == "backbone-1"]
    assert sheet.numbers[5]["layer"] == name
    heat = [h for _, heats in sheet.rows for h in heats if h is not None][5]
    assert heat.text == "6: stride 16, 7 x 7 shifted"
    x = seen["x"][0]
    height, width = x.shape[:2]
    assert heat.values.shape == (height, width)
    assert heat.values.sum() <= 1 + 1e-5  # the rest lies on what fills the map up
    full = join_windows(seen["y"], block.window, *(-(-side // 7) * 7 for side in (height, width)))
    y = full.roll(block.shift, (1, 2))[0, :height, :width]
    cell = found.scene.cell((77, 33), (height, width), patches=True)
    heads = block.attn.num_heads
    with torch.no_grad():
        values = block.attn.qkv(x).unflatten(2, (3, heads, -1))[:, :, 2]
        bias = block.attn.qkv.bias.view(3, heads, -1)[2]
        watcher = Watcher()
        (finish,) = watch_tokens(model, watcher)
        Predictor(model)(PHOTO)
        watcher.close()
        row = finish.args[1][5].row(*cell)  # of all heads
        torch.testing.assert_close(row.mean(0), heat.values)
        beyond = (1 - row.sum((1, 2)))[:, None] * bias  # zeros fill the map up, whose value is the bias
        made = block.attn.proj((torch.einsum("hyx,yxhd->hd", row, values) + beyond).flatten())
    torch.testing.assert_close(made, y[cell], rtol=1e-3, atol=1e-4)


def test_windows_of_vit_are_those_of_the_block():
    model = small("atss_vit_tiny_dyhead", channels=32)
    found = look(model, PHOTO, [(120, 90)])
    (layers, heads) = [s for s in found.sheets if s.name.startswith("backbone")]
    heats = [h for _, row in layers.rows for h in row]
    assert heats[2].text == "3: stride 16, whole map"
    assert (len(layers.numbers), len(heads.numbers)) == (12, 3)
    for number, (heat, block) in enumerate(zip(heats, model.backbone.blocks), start=1):
        window = "10 x 10" if block.window else "whole map"
        assert heat.text == f"{number}: stride 16, {window}"
        assert heat.values.shape == (6, 8)
        if not block.window:
            assert heat.values.sum() == pytest.approx(1.0, abs=1e-4)


def test_queries_of_detr_look_where_the_decoder_does():
    model = small("detr_tiny")
    seen = []
    watcher = Watcher()
    watcher.on(model.head.decoder[-1].cross_attention, lambda inputs, output: seen.append((inputs, output)))
    found = look(model, PHOTO, [(64, 48)])
    watcher.close()
    assert [sheet.name for sheet in found.sheets] == ["encoder-1", "encoder-heads-1", "decoder"]
    assert {row["class"] for row in found.sheets[2].numbers} <= {*model.card.class_names}
    assert found.sheets[1].numbers[0]["head"] == 1
    with pytest.raises(HeadwayError, match="a stride picks a level of Dynamic Head, and this model has none"):
        look(model, PHOTO, stride=16)
    objects = len(found.sheets[2].rows)
    assert [len(sheet.numbers) for sheet in found.sheets] == [3, 4, 3 * objects]
    (query, key, value, mask), output = seen[0]
    number = found.sheets[2].numbers[-objects]["query"]
    heat = found.sheets[2].rows[0][1][-1]
    assert heat.values.shape == (3, 4)
    module = model.head.decoder[-1].cross_attention
    with torch.no_grad():
        weights = module.weights(query, key, mask)[0, :, number]
        joined = torch.einsum("hk,khd->hd", weights, module.value(value)[0].unflatten(1, (4, -1))).flatten()
        torch.testing.assert_close(module.output(joined), output[0, number], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heat.values.flatten(), weights.mean(0))
    best = model.head.decode(found.scene.raw).scores[0].argmax()
    assert number == best


def test_queries_of_deformable_detr_look_at_points_of_all_maps():
    """Coarser maps are spread over the finest one: a query's map still sums to its weights, level by level."""
    model = small("deformable_detr_tiny")
    seen = []
    watcher = Watcher()
    watcher.on(model.head.decoder[-1].cross_attention, lambda inputs, output: seen.append(inputs))
    found = look(model, PHOTO, [(64, 48)])
    watcher.close()
    assert [sheet.name for sheet in found.sheets] == ["encoder-1", "encoder-heads-1", "decoder"]
    with pytest.raises(HeadwayError, match="a stride picks a level of Dynamic Head, and this model has none"):
        look(model, PHOTO, stride=16)
    objects = len(found.sheets[2].rows)
    number = found.sheets[2].numbers[-objects]["query"]
    values = found.sheets[2].rows[0][1][-1].values
    query, reference, memory, shapes, mask = seen[0]
    with torch.no_grad():
        weights = model.head.decoder[-1].cross_attention.weights(query, reference, memory, shapes, mask)
    own = weights[0, :, number].mean(0)
    assert values.shape == tuple(shapes[0])
    assert values.sum() == pytest.approx(own.sum().item(), abs=1e-5)
    finest = own[: values.numel()].view(values.shape)
    assert (values >= finest - 1e-6).all()
    assert number == found.scene.raw.cls[-1, 0].max(1).values.argmax()


def test_numbers_of_a_look():
    """Attention spread evenly over 4 of 16 cells, 2 of them in the box: e^(log 4) cells, half in the box."""
    scene = scene_of([], [])
    values = torch.zeros(4, 4)
    values[0] = 0.25
    found = numbers_of(scene, scene.heat(values), (0.0, 0.0, 20.0, 64.0))
    assert found["stride"] == 8
    assert found["cells"] == pytest.approx(4.0)
    assert found["in_box"] == pytest.approx(0.5)


def test_a_model_without_attention_is_refused_and_nothing_stays_watched():
    model = small("atss_r18_fpn", channels=32)
    with pytest.raises(HeadwayError, match="atss_r18_fpn has no attention to look at; train one with a Dynamic Head"):
        look(model, PHOTO)
    model = small("atss_r18_fpn_dyhead", channels=32)
    with pytest.raises(HeadwayError, match="pixel 500,2 lies outside"):
        look(small("atss_swin_nano_fpn_dyhead", channels=32), PHOTO, [(500, 2)])
    look(model, PHOTO)
    assert not any(m._forward_hooks for m in model.modules())
