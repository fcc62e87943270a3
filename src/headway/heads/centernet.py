"""CenterNet (arXiv 1904.07850): a heat map of centres with size and sub-cell offset, learned at the centre cell alone,
as in xingyizhou/CenterNet (MIT), and as arguments what mmdetection 3.3.0 (Apache-2.0) does differently."""

from ..registry import register_head
from ..types import Levels
from .heatmap import HeatmapHead, make_branch, one_fine_map, set_prior


@register_head("centernet", wants={"strides": (4, 8, 16, 32), "levels": 4})
def centernet(
    inputs: Levels,
    *,
    num_classes: int,
    head_width: int = 64,
    min_overlap: float = 0.3,
    score_clip: float = 1e-4,
    clip_boxes: bool = True,
) -> HeatmapHead:
    """Heat map of centres, with size and offset at the centre cell (CenterNet).

    head_width: of the branches' 3x3 convolution.
    min_overlap: see `overlap_radius`, which also says what the authors' 0.7 is here.
    score_clip: see `gaussian_focal`.
    clip_boxes: to the picture; the published checkpoints do not.

    Differs: upstream warps every picture to the input size and tests at the picture's own; here it is resized into
    `input_size`, as with all other models.
    """
    channels, stride = one_fine_map(inputs)
    heatmap, box, offset = (make_branch(channels, head_width, outputs, 1) for outputs in (num_classes, 2, 2))
    set_prior(heatmap, 0.1)
    head = HeatmapHead(
        heatmap, box, offset, num_classes=num_classes, stride=stride, style="center", min_overlap=min_overlap,
        score_clip=score_clip, clip_boxes=clip_boxes,
    )  # fmt: skip
    head.card = {"nms_iou": None, "input_size": (512, 512)}
    return head
