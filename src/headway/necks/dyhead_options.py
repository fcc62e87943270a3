"""The options of a Dynamic Head, in both of its forms."""

from typing import Literal, NamedTuple

DyHeadForm = Literal["released", "paper"]
HighOffset = Literal["flat", "crop", "resize", "upsample_first"]
DyHeadStart = Literal["level", "all"]
CommonSize = Literal["median", "finest"]


class DyHeadOptions(NamedTuple):
    """What a Dynamic Head is made of.

    scale, spatial, task: the three attentions, each of which can be taken out for the paper's ablation. Without scale
        the neighbours are averaged; without spatial the deformable convolutions are plain ones with a bias, without
        task the dynamic activation is ReLU.
    high_offset: how the offsets of a level steer its coarser neighbour: "flat" as published weights need, "crop",
        "resize" or "upsample_first"; see `DyHead`.
    form: "released", the published code: each level looks at itself and its two neighbours. "paper", its equations 2
        to 5 (see `PaperBlock`): all levels at the size of the median one.
    zero_init_offset: start from undeformed sampling. False: N(0, 0.01) as in mmdetection's reproduction config, or
        with deform_bias, in the released form, torch's default as in microsoft/DynamicHead.
    deform_bias: a bias in the deformable convolutions and, in the released form, torch's default start for the task
        attention, both as in microsoft/DynamicHead; mmdetection has neither.
    start: of the released form. "level": a block begins as a convolution of the level itself at a tower's strength, and
        the neighbours come in as they are learned, which is worth 0.05 AP on few pictures (docs/dyhead.md). "all", as
        published: a level and its neighbours begin alike, at a quarter of a tower's strength.
    common_size: of the paper's form, the level to whose size all are brought and which gives the offsets. "median", as
        in the paper, loses what is smaller than a cell of that level; "finest" keeps it (docs/dyhead.md).
    """

    scale: bool = True
    spatial: bool = True
    task: bool = True
    high_offset: HighOffset = "flat"
    form: DyHeadForm = "released"
    zero_init_offset: bool = True
    deform_bias: bool = False
    start: DyHeadStart = "level"
    common_size: CommonSize = "median"
