"""DETR's head, its masks and its neck; the whole network is compared in tests/golden and tests/peers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import headway
from headway.backbones.timm import timm_backbone
from headway.heads.detr import DetrHead, DetrRaw
from headway.layers.attention import valid_cells
from headway.types import Frame, Levels, Target

SMALL = {"heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32, "queries": 9}


@pytest.fixture(scope="module")
def head() -> DetrHead:
    torch.manual_seed(0)
    return DetrHead(Levels((32,), (16,)), num_classes=3, **SMALL).eval()


def features(cells: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 16, *cells, generator=generator)


# --------------------------------------------------------------------------------------------------------- masks
@pytest.mark.parametrize("padded", [(96, 128), (97, 129), (75, 110), (33, 250), (640, 853)])
@pytest.mark.parametrize("stride", [16, 32])
def test_cells_are_masked_as_pixels_resized_by_nearest_neighbour(padded, stride):
    """Upstream resizes the mask of all pixels; at every size of the picture the outcome is the same."""
    cells = (-(-padded[0] // stride), -(-padded[1] // stride))
    for k in range(1, 34, 2):
        sizes = torch.tensor([[max(1, padded[0] * k // 33), max(1, padded[1] * (34 - k) // 33)], list(padded)])
        pixels = torch.zeros(2, 1, *padded)
        for picture, (height, width) in zip(pixels, sizes.tolist()):
            picture[:, :height, :width] = 1
        expected = F.interpolate(pixels, size=cells)[:, 0] > 0
        assert torch.equal(valid_cells(sizes, padded, cells), expected)


def test_what_is_masked_does_not_matter(head):
    """Neither the content of padding nor how much of it there is."""
    sizes = torch.tensor([[64, 96], [64, 96]])
    x = features((2, 3))
    alone = head([x], Frame(sizes, (64, 96)))
    wide = F.pad(x, (0, 2, 0, 1), value=7.0)
    padded = head([wide], Frame(sizes, (96, 160)))
    torch.testing.assert_close(padded.cls, alone.cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.box, alone.box, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------- head
def test_queries_have_no_order(head):
    """Other queries in another order give the same boxes in that order."""
    maps, frame = [features((2, 3))], Frame(torch.tensor([[64, 96], [40, 70]]), (64, 96))
    raw = head(maps, frame)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    other = DetrHead(Levels((32,), (16,)), num_classes=3, **SMALL).eval()
    other.load_state_dict(head.state_dict() | {"queries.weight": head.queries.weight[order]})
    shuffled = other(maps, frame)
    torch.testing.assert_close(shuffled.cls, raw.cls[:, :, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled.box, raw.box[:, :, order], atol=1e-6, rtol=0)


def test_a_perfect_output_decodes_to_the_truth(head):
    """Boxes come back in pixels of the valid picture, those beyond it are cut; loss of the boxes is zero."""
    sizes = torch.tensor([[100, 200]])
    cls = torch.full((1, 1, 3, 4), -20.0)
    cls[0, 0, [0, 1, 2], [2, 0, 3]] = 20.0  # the last is "no object"
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.95, 0.1, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1]])[None, None]
    raw = DetrRaw(cls, box, sizes)
    found = head.decode(raw)
    assert found.labels[0, :2].tolist() == [2, 0]
    torch.testing.assert_close(found.boxes[0, :2], torch.tensor([[80.0, 30, 120, 70], [170, 0, 200, 20]]))
    assert found.scores[0].tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    truth = Target(torch.tensor([[80.0, 30, 120, 70], [170, 0, 210, 20]]), torch.tensor([2, 0]))
    terms = head.loss(raw, [truth]).terms
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in terms.values())


def test_of_several_maps_the_sum_of_their_means_is_read(head):
    """A finer map is brought to the last one's size by averaging 2 x 2 cells."""
    generator = torch.Generator().manual_seed(2)
    fine, x = torch.randn(1, 16, 4, 6, generator=generator), torch.randn(1, 16, 2, 3, generator=generator)
    frame = Frame(torch.tensor([[64, 96]]), (64, 96))
    means = fine.view(1, 16, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(head([fine, x], frame).cls, head([x + means], frame).cls)


def test_a_decoder_is_needed():
    with pytest.raises(ValueError, match="at least one decoder layer"):
        DetrHead(Levels((32,), (16,)), num_classes=3, decoder_layers=0)


# ------------------------------------------------------------------------------------------------------- network
def test_norms_as_buffers_compute_the_same_and_never_change():
    torch.manual_seed(0)
    frozen = timm_backbone("resnet18", strides=(32,), norm="frozen")
    for name, tensor in frozen.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    constant = timm_backbone("resnet18", strides=(32,), norm="buffers").train()
    constant.load_state_dict(frozen.state_dict())
    assert list(constant.state_dict()) != []
    assert set(constant.state_dict()) == set(frozen.state_dict())
    before = {name: b.clone() for name, b in constant.named_buffers()}
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(constant(images)[0], frozen(images)[0])
    assert all(torch.equal(before[name], b) for name, b in constant.named_buffers())
    count = sum(p.numel() for p in frozen.parameters()) - sum(p.numel() for p in constant.parameters())
    assert count == sum(b.numel() for n, b in before.items() if n.endswith((".weight", ".bias"))) == 9600


@pytest.mark.parametrize("name", ["detr_tiny", "detr_r50_dc5"])
def test_the_dilated_stage_keeps_its_stride(name):
    model = headway.create_model(name, backbone="resnet18", channels=16, **SMALL)
    maps = model.neck(model.backbone(torch.rand(1, 3, 97, 130)))
    assert [tuple(x.shape) for x in maps] == [(1, 16, 7, 9) if "dc5" in name else (1, 16, 4, 5)]


@pytest.mark.parametrize(
    ("name", "parameters", "trainable"),
    [
        ("detr_r50.facebook", 41_524_768, 41_302_368),
        ("detr_r50_dc5.hf", 41_524_768, 41_302_368),
        ("detr_r101.facebook", 60_464_672, 60_242_272),
        ("detr_r50.mmdet", 41_575_061, 41_299_541),
    ],
)
def test_published_parameter_counts(name, parameters, trainable):
    with torch.device("meta"):
        model = headway.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in (model.head.encoder, model.head.decoder))
    assert (encoder, decoder) == (7_890_432, 9_472_512)


def test_detect_agrees_with_forward_in_half_precision():
    """Outputs stay float32 under autocast, and near the exact ones."""
    torch.manual_seed(0)
    model = headway.create_model("detr_tiny", num_classes=3).eval()
    images, sizes = torch.rand(2, 3, 96, 128), torch.tensor([[96, 128], [70, 100]])
    with torch.no_grad():
        exact = model(images, sizes)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, sizes)
    assert half.cls.dtype == half.box.dtype == torch.float32
    assert (half.box - exact.box).abs().max() < 0.02
    assert (half.cls - exact.cls).abs().max() < 0.1


def test_export_of_any_batch_and_size():
    """One graph, with decoding, for other numbers of pictures, other sizes and other padding than the example's."""
    torch.manual_seed(0)

    class Decoded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = headway.create_model("detr_tiny", num_classes=3, encoder_layers=1, decoder_layers=1)

        def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = self.model.decode(self.model(images, sizes))
            return found.boxes, found.scores, found.labels

    network = Decoded().eval()
    batch, height, width = torch.export.Dim("B", min=1), torch.export.Dim("H", min=33), torch.export.Dim("W", min=33)
    example = (torch.rand(2, 3, 97, 130), torch.tensor([[97, 130], [80, 100]]))
    program = torch.export.export(network, example, dynamic_shapes=({0: batch, 2: height, 3: width}, {0: batch}))
    images, sizes = torch.rand(3, 3, 160, 65), torch.tensor([[160, 65], [100, 60], [33, 64]])
    with torch.no_grad():
        expected = network(images, sizes)
        for mine, theirs in zip(program.module()(images, sizes), expected):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)
