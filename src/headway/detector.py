"""The one detector: normalise, backbone, neck, head. A family is its head; this class is never subclassed.

`forward` owns every parameter. `decode`, `loss` and `select` own none, so validation loss, export, DDP, mixed
precision and EMA need no second path, and no return type depends on `self.training`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import HeadwayError
from .layers.fuse import can_fold, fuse
from .select import SoftNMS, select
from .types import Candidates, Detections, Losses, ModelCard, Target


class Head(Protocol):
    """What a head must offer. `raw` is the head's own NamedTuple of plain tensors."""

    def __call__(self, features: list[Tensor], sizes: Tensor, targets: list[Target] | None = None) -> Any: ...
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
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) / 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) / 255.0, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.channels == "bgr":
            images = images.flip(1)
        return (images - self.mean) / self.std


class Detector(nn.Module):
    """Backbone, neck and head behind one contract.

    images: [B, 3, H, W] RGB float 0..1, padded at the right and bottom with `card.pad_value`; any H and W.
    sizes: [B, 2] valid (height, width) of each image before padding; None means no padding.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.normalize: nn.Module = Normalize(card.mean, card.std, card.channels)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.card = card
        self._folded: tuple[tuple[Any, ...], nn.Module] | None = None  # in a tuple, so that it is no submodule

    def set_card(self, card: ModelCard) -> None:
        """Replace the card and what follows from it (normalisation)."""
        device = next(iter(self.parameters())).device
        self.card = card
        self.normalize = Normalize(card.mean, card.std, card.channels).to(device)

    def forward(self, images: Tensor, sizes: Tensor | None = None, targets: list[Target] | None = None) -> Any:
        """Raw head outputs. `targets` matter only to heads that condition on them (RoI sampling, denoising).

        Raises: HeadwayError for images or sizes of another shape or type.
        """
        sizes = self._checked_sizes(images, sizes)
        return self.head(self.neck(self.backbone(self.normalize(images))), sizes, targets)

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
        sizes: Tensor | None = None,
        *,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        soft_nms: SoftNMS | None = None,
    ) -> list[Detections]:
        """Final detections of each image, in network-input pixels (`Detections.to_original` maps them back).

        score_threshold: on the final score. None: the card's threshold, on the class score alone as published.
        nms_iou, max_detections: None means the card's. soft_nms: see `select`.
        In eval mode the network runs channels-last with implicit values and batch norms folded (a cached copy, made
        anew whenever a weight changes); outputs differ from `forward` by float rounding only.
        """
        card = self.card
        with torch.no_grad():
            candidates = self.decode(self._fast_forward(images, sizes))
            return select(
                candidates,
                score_threshold=0.0 if score_threshold is None else score_threshold,
                class_threshold=card.score_threshold if score_threshold is None else 0.0,
                nms_iou=card.nms_iou if nms_iou is None else nms_iou,
                max_detections=card.max_detections if max_detections is None else max_detections,
                drop_empty=card.drop_empty,
                soft_nms=soft_nms,
                names=card.class_names,
            )

    @staticmethod
    def full_sizes(images: Tensor) -> Tensor:
        """[B, 2] (height, width) of unpadded images."""
        batch, _, height, width = images.shape
        return torch.tensor([[height, width]], device=images.device).expand(batch, 2)

    def _checked_sizes(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise HeadwayError(
                f"images must be [B, 3, H, W], got {tuple(images.shape)}; give one picture a leading axis: images[None]"
            )
        if not images.is_floating_point():
            raise HeadwayError(f"images must be float in 0..1, got {images.dtype}; divide 8-bit pixels by 255")
        if sizes is None:
            return self.full_sizes(images)
        if sizes.shape != (images.shape[0], 2):
            raise HeadwayError(f"sizes must be [{images.shape[0]}, 2] (height, width), got {tuple(sizes.shape)}")
        return sizes

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

    def _fast_forward(self, images: Tensor, sizes: Tensor | None) -> Any:
        """`forward`, in eval mode channels-last and folded."""
        if self.training or torch.compiler.is_compiling():
            return self(images, sizes)
        sizes = self._checked_sizes(images, sizes)
        images = self.normalize(images).contiguous(memory_format=torch.channels_last)
        backbone, neck, head = self._folded_parts()
        return head(neck(backbone(images)), sizes)

    def _folded_parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Backbone, neck and head, folded (`fuse`), made anew when any of the tensors is another or has changed. Neck
        and head are copied for it only where they have something to fold.

        What somebody watches through hooks, or what is in training mode, is used as it is.
        """
        own = (self.backbone, self.neck, self.head)
        members = [list(part.modules()) for part in own]  # listed once: walking a network takes a millisecond
        whole = any(can_fold(m) for inner in members[1:] for m in inner)
        copied = [m for inner in members[: 3 if whole else 1] for m in inner]
        if any(m._forward_hooks or m._forward_pre_hooks or m.training for m in copied):
            return own
        tensors = [t for m in copied for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
        key = tuple((id(t), t.data_ptr(), t._version, t.dtype) for t in tensors)
        if self._folded is None or self._folded[0] != key:
            self._folded = None  # which is copied with the rest
            self._folded = (key, fuse(self if whole else self.backbone).to(memory_format=torch.channels_last))
        folded = self._folded[1]
        if isinstance(folded, Detector):
            return folded.backbone, folded.neck, folded.head
        return folded, *own[1:]
