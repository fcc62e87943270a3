"""DyHead alone (32 -> 48 channels, 2 blocks, batch 2, odd sizes) against numbers recorded from mmdet 3.3.0."""

import re

import compare
import fill
import numpy as np
import pytest
import torch

from headway.convert.dyhead_keys import MMDET_DYHEAD
from headway.necks import dyhead
from headway.necks.dyhead import DyHead, DyHeadBlock, DyHeadOptions
from headway.types import Levels

GOLDEN = compare.load("dyhead_unit")


def normal(seed: int, shape) -> torch.Tensor:
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(tuple(shape)).astype(np.float32))


def renamed(key: str) -> str:
    names = [match.expand(target) for pattern, target in MMDET_DYHEAD if (match := re.fullmatch(pattern, key))]
    assert len(names) == 1, f"{key} is renamed to {names}"
    return names[0]


def mixed(points: torch.Tensor, size: torch.Size, mode: str) -> torch.Tensor:
    """Variant flat_offset_crop_mask: what mmcv's kernel makes of a cropped view of the offset."""
    return dyhead_fit(points, size, "flat" if points.shape[1] == 18 else "crop")


dyhead_fit = dyhead.fit_to_coarser


@pytest.mark.parametrize("variant", ["flat", "crop", "flat_offset_crop_mask"])
def test_forward_and_gradients(variant, monkeypatch):
    fill.check_fill(GOLDEN)
    if variant == "flat_offset_crop_mask":
        monkeypatch.setattr(dyhead, "fit_to_coarser", mixed)
    options = DyHeadOptions(high_offset="crop" if variant == "crop" else "flat")
    neck = DyHead(Levels((8, 16, 32), (48, 48, 48)), blocks=2, options=options)
    neck.blocks[0] = DyHeadBlock(32, 48, options)
    neck.load_state_dict({renamed(k): v for k, v in fill.fill_state_dict(GOLDEN).items()}, strict=True)
    assert sum(p.numel() for p in neck.parameters()) == GOLDEN["num_params"]

    golden = GOLDEN["variants"][variant]
    inputs = [normal(100 + i, shape).requires_grad_() for i, shape in enumerate(GOLDEN["input"]["shapes"])]
    maps = inputs
    for number, block in enumerate(neck.blocks):
        maps = block(maps)
        for level, x in enumerate(maps):
            compare.check_checkpoint(golden["checkpoints"][f"block{number}.level{level}"], x.detach().numpy())
    loss = sum((x * normal(200 + i, x.shape)).sum() for i, x in enumerate(maps))
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-4)

    loss.backward()
    for level, x in enumerate(inputs):
        compare.check_checkpoint(golden["checkpoints"][f"grad_input.level{level}"], x.grad.numpy())
    parameters = dict(neck.named_parameters())
    assert len(golden["grads"]) == len(parameters)
    for key, (norm, total) in golden["grads"].items():
        grad = parameters[renamed(key)].grad.double()
        assert grad.norm().item() == pytest.approx(norm, rel=2e-3), key
        # A sum of n gradients of either sign is known to about the norm's error times sqrt(n).
        assert grad.sum().item() == pytest.approx(total, abs=1e-4 * norm * grad.numel() ** 0.5), key
