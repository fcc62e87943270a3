"""Names of DyHead's tensors in the published checkpoints, and ours: pairs of (pattern, target).

A pattern is a regular expression for a whole upstream key behind its prefix (`neck.1.` in mmdetection, `backbone.` in
microsoft/DynamicHead), a target our key behind the neck's. The layouts are the same; only the two layers of the task
attention are `Linear` upstream in microsoft/DynamicHead, [out, in], and 1x1 convolutions here, [out, in, 1, 1]: a
converter reshapes them.

Sources: mmdetection 3.3.0, mmdet/models/necks/dyhead.py (Apache-2.0); microsoft/DynamicHead at 9c7cd66,
dyhead/dyhead.py (MIT).
"""

_BLOCK = r"blocks.\1."

MMDET_DYHEAD: list[tuple[str, str]] = [
    (r"dyhead_blocks\.(\d+)\.spatial_conv_offset\.(weight|bias)", _BLOCK + r"spatial.offset.\2"),
    (
        r"dyhead_blocks\.(\d+)\.spatial_conv_(high|mid|low)\.(conv|norm)\.(weight|bias)",
        _BLOCK + r"spatial.\2.\3.\4",
    ),
    (r"dyhead_blocks\.(\d+)\.scale_attn_module\.1\.(weight|bias)", _BLOCK + r"scale.gate.\2"),
    (r"dyhead_blocks\.(\d+)\.task_attn_module\.conv1\.conv\.(weight|bias)", _BLOCK + r"task.reduce.\2"),
    (r"dyhead_blocks\.(\d+)\.task_attn_module\.conv2\.conv\.(weight|bias)", _BLOCK + r"task.expand.\2"),
]

_OFFICIAL_PATHS = {"0": "high", "1": "mid", "2": "low"}

OFFICIAL_DYHEAD: list[tuple[str, str]] = [
    (r"dyhead_tower\.(\d+)\.offset\.(weight|bias)", _BLOCK + r"spatial.offset.\2"),
    *(
        pair
        for number, path in _OFFICIAL_PATHS.items()
        for pair in (
            (rf"dyhead_tower\.(\d+)\.DyConv\.{number}\.conv\.(weight|bias)", _BLOCK + rf"spatial.{path}.conv.\2"),
            (rf"dyhead_tower\.(\d+)\.DyConv\.{number}\.bn\.(weight|bias)", _BLOCK + rf"spatial.{path}.norm.\2"),
        )
    ),
    (r"dyhead_tower\.(\d+)\.AttnConv\.1\.(weight|bias)", _BLOCK + r"scale.gate.\2"),
    (r"dyhead_tower\.(\d+)\.relu\.fc\.0\.(weight|bias)", _BLOCK + r"task.reduce.\2"),
    (r"dyhead_tower\.(\d+)\.relu\.fc\.2\.(weight|bias)", _BLOCK + r"task.expand.\2"),
]
