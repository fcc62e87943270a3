"""The one detector: normalise, backbone, neck, head. A family is its head; this class is never subclassed.

`forward` owns every parameter. `decode`, `loss` and `select` own none, so validation loss, export, DDP, mixed
precision and EMA need no second path, and no return type depends on `self.training`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .errors import HeadwayError
from .select import SoftNMS, select
from .types import Candidates, Detections, Frame, Losses, ModelCard, Target


class Head(Protocol):
    """What a head must offer. `raw` is the head's own NamedTuple of plain tensors.

    Optional: `card`, fields of the model card that go with it; `tasks`, what else it learns; `health(stats)`, what has
    gone wrong in training, as lines of text; `fuses_views`, whether its boxes of several views of a picture are few and
    final, and so averaged and not suppressed (`predict.tta`).
    """

    def __call__(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> Any: ...
    def decode(self, raw: Any) -> Candidates: ...
    def loss(self, raw: Any, targets: list[Target]) -> Losses: ...


class Normalize(nn.Module):
    """[B, 3, H, W] RGB 0..1 -> (x - mean) / std in the channel order the weights were trained with.

    mean, std: per channel in 0..255 units, in `channels` order.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels: str = "rgb") -> None:
        super().__init__()
        if channels not in ("rgb", "bgr"):
            raise ValueError(f"channels must be 'rgb' or 'bgr', got {channels!r}")
        self.channels = channels
        self.register_buffer("mean", torch.tensor(mean, device="cpu").view(1, 3, 1, 1) / 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std, device="cpu").view(1, 3, 1, 1) / 255.0, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.channels == "bgr":
            images = images.flip(1)
        return (images - self.mean) / self.std


class Detector(nn.Module):
    """Backbone, neck and head behind one contract.

    backbone: [B, 3, H, W] -> list of maps, finest first. neck: list of maps -> list of maps; None: none. head: `Head`.
    card, class_names: either; the card of plain RGB pixels 0..255 with ImageNet's statistics is the default.

    images: [B, 3, H, W] RGB float 0..1, padded at the right and bottom with `card.pad_value`; any H and W.
    frame: what of that is picture, a `Frame` or its sizes [B, 2] (height, width) alone; None means no padding.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: nn.Module,
        card: ModelCard | None = None,
        *,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if card is None:
            if class_names is None:
                raise HeadwayError("a Detector needs to know its classes: give class_names=[...] or a card")
            card = ModelCard(class_names=tuple(class_names), **{"score_threshold": 0.01, **getattr(head, "card", {})})
        self.normalize: nn.Module = Normalize(card.mean, card.std, card.channels)
        self.backbone, self.neck, self.head = backbone, nn.Identity() if neck is None else neck, head
        self.card = card

    def set_card(self, card: ModelCard) -> None:
        """Replace the card and what follows from it (normalisation)."""
        device = next(iter(self.parameters())).device
        self.card = card
        self.normalize = Normalize(card.mean, card.std, card.channels).to(device)

    def forward(self, images: Tensor, frame: Frame | Tensor | None = None, targets: list[Target] | None = None) -> Any:
        """Raw head outputs. `targets` matter only to heads that condition on them (RoI sampling, denoising).

        Raises: HeadwayError for images or sizes of another shape or type, and in training for a batch so small that a
        batch norm sees a single value.
        """
        frame = self._checked_frame(images, frame)
        try:
            return self.head(self.neck(self.backbone(self.normalize(images))), frame, targets)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
        raise HeadwayError(
            f"a batch norm cannot be trained on {len(images)} picture of {images.shape[2]} x {images.shape[3]}, whose "
            "coarsest map is one cell: take a batch of 2 and more, or larger pictures"
        )

    def decode(self, raw: Any) -> Candidates:
        """Raw -> a static number of scored boxes per image, in network-input pixels."""
        return self.head.decode(raw)

    def loss(self, raw: Any, targets: list[Target]) -> Losses:
        """Raw and one target per image -> weighted loss terms. No parameter is touched.

        Raises: HeadwayError for targets of another shape, and on the CPU for labels out of range and boxes that are
        not finite or inverted.
        """
        for number, target in enumerate(targets):
            self._check_target(number, target)
        return self.head.loss(raw, targets)

    def detect(
        self,
        images: Tensor,
        frame: Frame | Tensor | None = None,
        *,
        threshold: float | None = None,
        nms_iou: float | Literal["card"] | None = "card",
        max_detections: int | None = None,
        soft_nms: SoftNMS | None = None,
        score_threshold: float | None = None,
    ) -> list[Detections]:
        """Final detections of each image, in network-input pixels (`Detections.to_original` maps them back).

        threshold: on the final score. None: the card's class threshold, on the class score alone as published.
        nms_iou: None switches suppression off; "card" is the card's. max_detections: None means the card's.
        soft_nms: see `select`. score_threshold: the old name of `threshold`.
        `headway.fuse` makes a faster copy of the model for this.

        Raises: HeadwayError for images and sizes as `forward`, and for pixels in 0..255.
        """
        if isinstance(images, Tensor) and images.is_floating_point() and not torch.compiler.is_compiling():
            _check_values(images)
        threshold = score_threshold if threshold is None else threshold
        if not self.training and images.device.type == "cpu" and not torch.compiler.is_compiling():
            images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        with torch.no_grad():
            candidates = self.decode(self(images, frame))
            return self.select(candidates, threshold, nms_iou, max_detections, soft_nms)

    def select(
        self,
        candidates: Candidates,
        threshold: float | None = None,
        nms_iou: float | Literal["card"] | None = "card",
        max_detections: int | None = None,
        soft_nms: SoftNMS | None = None,
    ) -> list[Detections]:
        """Final detections of decoded candidates, by the rules of `detect`, whose arguments these are."""
        card = self.card
        return select(
            candidates,
            score_threshold=0.0 if threshold is None else threshold,
            class_threshold=card.score_threshold if threshold is None else 0.0,
            nms_iou=card.nms_iou if nms_iou == "card" else nms_iou,
            max_detections=card.max_detections if max_detections is None else max_detections,
            drop_empty=card.drop_empty,
            soft_nms=soft_nms,
            names=card.class_names,
        )

    def predict(self, source: Any, **options: Any) -> Any:
        """Detections in the pixels of each picture. source: a path, URL, PIL picture, array or tensor, or a list of
        them; see `headway.predict.predict`, which takes the same options."""
        predict = import_module(".predict", __package__).predict  # which itself knows detectors
        return predict(self, source, **options)

    @staticmethod
    def full_sizes(images: Tensor) -> Tensor:
        """[B, 2] (height, width) of unpadded images."""
        batch, _, height, width = images.shape
        return torch.tensor([[height, width]], device=images.device).expand(batch, 2)

    def _checked_frame(self, images: Tensor, frame: Frame | Tensor | None) -> Frame:
        if images.dim() != 4 or images.shape[1] != 3:
            raise HeadwayError(
                f"images must be [B, 3, H, W], got {tuple(images.shape)}; give one picture a leading axis: images[None]"
            )
        if not images.is_floating_point():
            raise HeadwayError(
                f"images must be float in 0..1, got {images.dtype}; divide 8-bit pixels by 255, of a loader's batch "
                "take headway.data.batch.to_model_input(batch, device)"
            )
        canvas = (images.shape[2], images.shape[3])
        if frame is None:
            return Frame(self.full_sizes(images), canvas)
        sizes = frame.sizes if isinstance(frame, Frame) else frame
        if sizes.shape != (images.shape[0], 2):
            raise HeadwayError(f"sizes must be [{images.shape[0]}, 2] (height, width), got {tuple(sizes.shape)}")
        return Frame(sizes, canvas)

    def _check_target(self, number: int, target: Target) -> None:
        boxes, labels, where = target.boxes, target.labels, f"target {number}"
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise HeadwayError(f"{where}: boxes must be [M, 4] xyxy, got {tuple(boxes.shape)}; none is [0, 4]")
        if labels.shape != boxes.shape[:1]:
            raise HeadwayError(f"{where}: {boxes.shape[0]} boxes need as many labels, got {tuple(labels.shape)}")
        if boxes.device.type != "cpu" or not len(boxes):  # elsewhere a look would make the device wait
            return
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.card.num_classes:
            last = self.card.num_classes - 1
            raise HeadwayError(f"{where}: labels must be 0..{last}, got {int(labels.min())}..{int(labels.max())}")
        bad = ~(torch.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1))
        if bad.any():
            row = int(bad.nonzero()[0])
            raise HeadwayError(f"{where}: box {row} is {boxes[row].tolist()}, expected finite x1 <= x2 and y1 <= y2")


_EIGHT_BIT = 8.0  # values above are pixels of 0..255; a resize overshoots less, and so does a normalisation


def _check_values(images: Tensor) -> None:
    """Raises: HeadwayError for pixels in 0..255."""
    high = images.max().item() if images.numel() else 0.0
    if high > _EIGHT_BIT:
        raise HeadwayError(f"images must be float in 0..1, got values up to {high:g}; divide 8-bit pixels by 255")


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode, training or evaluation, that it had before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
