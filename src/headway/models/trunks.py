"""Backbones of several families: paths of backbone and pyramid, and the arguments that go with them."""

from typing import Any

SMALL: dict[str, Any] = {"input_size": (320, 320)}
# Swin's sizes with the rates of stochastic depth that its detectors were trained with (arXiv 2103.14030, A2.2, and the
# authors' configurations; Swin-L: mmdetection's Dynamic Head).
SWIN: dict[str, tuple[str, dict[str, Any]]] = {
    "nano": ("swin_nano_patch4_window7/fpn", {"fpn.channels": 128, **SMALL}),
    "t": ("swin_tiny_patch4_window7_224/fpn", {"drop_path": 0.2}),
    "s": ("swin_small_patch4_window7_224/fpn", {"drop_path": 0.2}),
    "b": ("swin_base_patch4_window7_224/fpn", {"drop_path": 0.3}),
    "l": ("swin_large_patch4_window12_384/fpn", {"drop_path": 0.2, "input_size": (1200, 2000)}),
}
# Plain ViTs: ViT-B at the size and rate of ViTDet (arXiv 2203.16527, A.1), its hybrid (timm's R50+ViT-B), small ones.
_B: dict[str, Any] = {"drop_path": 0.1, "input_size": (1024, 1024)}
_TINY: dict[str, Any] = {"simple_pyramid.channels": 128, **SMALL}
VIT: dict[str, tuple[str, dict[str, Any]]] = {
    "b": ("vit_base_patch16_224/simple_pyramid", _B),
    "b_hybrid": ("vit_base_r50_s16_224/simple_pyramid", _B),
    "tiny": ("vit_tiny_patch16/simple_pyramid", _TINY),
    "tiny_hybrid": ("vit_tiny_hybrid_r18/simple_pyramid", _TINY),
}
