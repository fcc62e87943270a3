"""What a run needs to go on after it was killed, in one file that is always whole.

`state/last.pt` holds the training weights, optimizer, schedule, running mean, loss scaler, random generators of every
process and the position in the data. It is written beside the old one and then takes its name, so a kill at any
moment leaves either the old state or the new one.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import DetectionData
from ..errors import CheckpointError, HeadwayError
from ..files import write_atomically
from ..types import Batch
from .config import TrainConfig

STATE = Path("state") / "last.pt"
COMMAND = "command.json"  # written into the empty folder by `headway train`: model and data, for --resume


@dataclass(slots=True)
class Progress:
    """Where a run stands. Everything here is saved.

    epoch: the running epoch, from 0; batch: batches of it already used; step: optimizer steps so far.
    best: the best AP yet, or None; best_epoch: when; stale: validations since then.
    window, epoch_sums: sums of each logged number over the steps since the last row, and since the epoch began.
    seconds: training time so far; log_bytes: length of metrics.jsonl when the state was saved.
    finished: nothing is left to do.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    window: dict[str, float] = field(default_factory=dict)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    log_bytes: int = 0
    finished: bool = False


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators of this process as plain values and tensors: Python's, numpy's, torch's on CPU and `device`."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(saved: dict[str, Any], device: torch.device) -> None:
    """Inverse of `random_state`."""
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)


def describe_data(data: DetectionData) -> dict[str, Any]:
    """What must be equal for a continued run to see the same samples."""
    return {"images": len(data), "boxes": data.num_boxes, "class_names": list(data.class_names)}


def write_state(folder: Path, parts: dict[str, Any], progress: Progress, data: dict[str, Any]) -> None:
    """Write `<folder>/state/last.pt`. parts: `state_dict()`s and random states, by name."""
    buffer = io.BytesIO()
    torch.save({**parts, "progress": asdict(progress), "data": data}, buffer)
    write_atomically(folder / STATE, buffer.getvalue())


def read_state(folder: Path) -> dict[str, Any]:
    """The saved state, on the CPU. Nothing in the file can run code.

    Raises: HeadwayError when the folder has none; CheckpointError when it cannot be read.
    """
    path = folder / STATE
    if not path.is_file():
        raise HeadwayError(
            f"nothing to resume: {folder} holds no {STATE}; remove the folder and start the run without --resume"
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved["progress"] = Progress(**saved["progress"])
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise CheckpointError(f"{path} is damaged or not a training state: {str(error).splitlines()[0]}") from None
    return dict(saved)


def open_folder(config: TrainConfig, *, resume: bool) -> None:
    """Make the run folder, or check that the one there may be continued with these settings.

    Raises: HeadwayError for a folder that already holds something (without resume), or a run started with other
    settings, naming them.
    """
    folder = config.out
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(path.name != COMMAND for path in folder.iterdir())):
            raise HeadwayError(
                f"run folder {folder} exists already and nothing in it is overwritten: choose another `out`, "
                "or continue that run with --resume"
            )
        folder.mkdir(parents=True, exist_ok=True)
        config.save(folder / "config.json")
        return
    if not (folder / "config.json").is_file():
        raise HeadwayError(f"nothing to resume: {folder} holds no config.json; start the run without --resume")
    if changes := TrainConfig.load(folder / "config.json").differences(config):
        raise HeadwayError(
            f"{folder} was started with other settings ({'; '.join(changes)}): resume with the old ones, or start a "
            "new run from its last.safetensors"
        )
    for part in (*folder.glob(".*.part"), *(folder / "state").glob(".*.part")):
        part.unlink()  # left by a kill in the middle of a write


def dump_batches(folder: Path, batches: list[Batch], notes: dict[str, Any]) -> list[str]:
    """Write batches that broke a step to <folder>: tensors.safetensors, and batch.json with files, boxes and `notes`.

    Returns the image files, in order.
    """
    from safetensors.torch import save as to_bytes

    tensors, images = {}, []
    for number, batch in enumerate(batches):
        tensors[f"{number}.images"] = batch.images.detach().cpu().contiguous()
        tensors[f"{number}.sizes"] = batch.sizes.detach().cpu().contiguous()
        for index, (meta, target) in enumerate(zip(batch.metas, batch.targets)):
            images.append(
                {
                    "path": meta.path,
                    "tensor": f"{number}.images[{index}]",
                    "image_id": meta.image_id,
                    "boxes": target.boxes.tolist(),
                    "labels": target.labels.tolist(),
                }
            )
    write_atomically(folder / "tensors.safetensors", to_bytes(tensors))
    write_atomically(folder / "batch.json", json.dumps({**notes, "images": images}, indent=2).encode())
    return [image["path"] for image in images]
