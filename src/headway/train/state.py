"""What a run needs to go on after it was killed, in one file that is always whole.

`state/last.pt` holds the training weights, optimizer, schedule, running mean, loss scaler, random generators of every
process and the position in the data. It is written beside the old one and then takes its name, so a kill at any
moment leaves either the old state or the new one.
"""

import io
import json
import random
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import DetectionData
from ..errors import CheckpointError, HeadwayError, one_line
from ..files import claim_folder, write_atomically
from ..types import Batch
from .config import TrainConfig

STATE = Path("state") / "last.pt"
COMMAND = "command.json"  # what `headway.train` was called with: model and data, for --resume


@dataclass(slots=True)
class Progress:
    """Where a run stands. Everything here is saved.

    epoch: the running epoch, from 0; batch: batches of it already used; step: optimizer steps so far.
    best: the best AP yet, or None; best_epoch: when; stale: validations since then.
    window, epoch_sums: sums of each logged number over the steps since the last row, and since the epoch began.
    seconds: training time so far; log_bytes: length of metrics.jsonl when the state was saved.
    start_validated: the start was validated, where `validate_start` asks for it. finished: nothing is left to do.
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
    start_validated: bool = False
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
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
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
    if device.type == "mps" and saved.get("mps") is not None:
        torch.mps.set_rng_state(saved["mps"])


def describe_data(data: DetectionData | None) -> dict[str, Any]:
    """What must be equal for a continued run to see the same samples: counts, and digests of the pictures' names, their
    boxes and their labels, in order. The folder may differ. Empty for no data."""
    if data is None:
        return {}
    hashes = {"pictures": sha256(), "boxes": sha256(), "labels": sha256()}
    for r in data.records:
        hashes["pictures"].update(f"{r.image_id}/{r.path.name}/{r.size}\n".encode())
        hashes["boxes"].update(f"{len(r.boxes)}:".encode() + np.ascontiguousarray(r.boxes, "<f4").tobytes())
        hashes["labels"].update(f"{r.labels.tolist()}{r.crowd.tolist()}".encode())
    digests = {f"digest of {what}": digest.hexdigest()[:16] for what, digest in hashes.items()}
    return {"images": len(data), "boxes": data.num_boxes, "class_names": list(data.class_names), **digests}


def check_same_data(folder: Path, what: str, started: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare two results of `describe_data`. Raises: HeadwayError naming what differs."""
    if started == now:
        return
    if not started or not now:
        was, found = ("had" if started else "had no"), ("there is some" if now else "there is none")
        raise HeadwayError(
            f"the run in {folder} {was} {what} data, and now {found}: resume with the data it was started with"
        )
    changes = [
        key.replace("digest of", "other") if key.startswith("digest") else f"{key}: {started.get(key)} -> {now[key]}"
        for key in now
        if started.get(key) != now[key]
    ]
    raise HeadwayError(
        f"the run in {folder} was trained on other data ({what}: {'; '.join(changes)}): resume with the data it was "
        "started with"
    )


def write_state(folder: Path, parts: dict[str, Any], progress: Progress, data: dict[str, dict[str, Any]]) -> None:
    """Write `<folder>/state/last.pt`. parts: `state_dict()`s and random states, by name. data: of "training" and
    "validation" what `describe_data` says."""
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
            f"nothing to resume: {folder} holds no {STATE}; train its last.safetensors in a new folder, or remove the "
            "folder and start the run without --resume"
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved["progress"] = Progress(**saved["progress"])
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise CheckpointError(f"{path} is damaged or not a training state: {one_line(error)}") from None
    return dict(saved)


def require_new(folder: Path) -> Path:
    """Create the folder of a new run. Raises: HeadwayError when it holds anything."""
    return claim_folder(folder, f"name another `out`, or go on with that run by {how_to_resume(folder)}")


def how_to_resume(folder: Path) -> str:
    """What goes on with the run in `folder`: a command where model and data have names, else a call."""
    path = folder / COMMAND
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if record.get("model") and record.get("data") and not record.get("objects"):
        return f"`headway train {folder} --resume`"
    return f"the same call with out={str(folder)!r} and resume=True"


def going_on(folder: Path) -> str:
    """What to do when a process of the run in `folder` was lost."""
    return (
        f"the last saved state is in {folder}: {how_to_resume(folder)} goes on from it, under torchrun with the nodes "
        "that are left, or by itself"
    )


def open_folder(config: TrainConfig, *, resume: bool) -> int:
    """Make the run folder, or check that the one there may be continued with these settings. Gives the epochs that were
    asked for before, which a continued run may raise.

    Raises: HeadwayError for a folder that already holds something (without resume), or a run started with other
    settings, naming them.
    """
    folder = config.out
    assert folder is not None
    if not resume:
        require_new(folder)
        config.save(folder / "config.json")
        return config.epochs
    if not (folder / "config.json").is_file():
        raise HeadwayError(f"nothing to resume: {folder} holds no config.json; start the run without --resume")
    started = TrainConfig.load(folder / "config.json")
    longer = config.epochs > started.epochs
    if changes := (started.changed(epochs=config.epochs) if longer else started).differences(config):
        raise HeadwayError(
            f"{folder} was started with other settings ({'; '.join(changes)}): resume with the old ones (more epochs "
            "are possible), or start a new run from its last.safetensors"
        )
    for part in (*folder.glob(".*.part"), *(folder / "state").glob(".*.part")):
        part.unlink()  # left by a kill in the middle of a write
    return started.epochs


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
            found = {"boxes": target.boxes.tolist(), "labels": target.labels.tolist()}
            place = {"path": meta.path, "tensor": f"{number}.images[{index}]", "image_id": meta.image_id}
            images.append(place | found)
    write_atomically(folder / "tensors.safetensors", to_bytes(tensors))
    write_atomically(folder / "batch.json", json.dumps({**notes, "images": images}, indent=2).encode())
    return [image["path"] for image in images]
