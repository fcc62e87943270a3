"""`headway bench --tiles` and `--tta`: what several views of a picture cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import check_fixed, load_model, pick_device, say, show, show_json, table

if TYPE_CHECKING:
    from .bench import Bench

_TILES_ACROSS = 4  # of the picture, where --size does not say it


def run_views(command: Bench, path: Path | None) -> int:
    """Time a random picture, from its pixels to its boxes, plain and in several views. path: of an exported file."""
    plain, seen, facts = _of_model(command) if path is None else _of_file(command, path)
    if not command.json:
        say(
            f"{command.repeats} pictures of {facts['size'][0]}x{facts['size'][1]}, plain and in "
            f"{facts['views']} views ..."
        )
    timed = {name: _quantiles(look, command.repeats) for name, look in (("plain", plain), (str(command.views), seen))}
    first, second = (latency["median"] for latency in timed.values())
    result = {"model": command.model, **facts, "latency_ms": timed, "price": second / first}
    if command.json:
        show_json(result)
        return 0
    rows = [(name, f"{ms['median']:.1f}", f"{ms['p90']:.1f}") for name, ms in timed.items()]
    show(
        f"{command.model} on a picture of {facts['size'][0]}x{facts['size'][1]}, batches of {command.batch}, "
        f"{facts['device']}, {facts['threads']} threads\n"
        f"{table(('views', 'ms median', 'ms p90'), rows, right=(1, 2))}\n"
        f"{facts['views']} views take {result['price']:.1f} times the time of one"
    )
    return 0


def _size_of(command: Bench, input_size: Any) -> tuple[int, int]:
    """(height, width) of the picture."""
    if command.size is not None:
        return command.size
    tiles = command.views.tiles
    short, long = input_size if tiles in (None, "model") else (tiles, tiles)
    times = 1 if tiles is None else _TILES_ACROSS
    return times * int(short), times * int(long)


def _of_model(command: Bench) -> tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]:
    import torch

    from ..predict import Predictor

    if command.threads:
        torch.set_num_threads(command.threads)
    device = pick_device(command.device)
    torch.manual_seed(0)
    model = load_model(command.model, str(device), random=True)
    size = _size_of(command, model.card.input_size)
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    views = command.views.settings()
    plain, seen = (
        Predictor(model, device, command.precision, command.batch, **more) for more in (dict[str, Any](), views)
    )
    facts = {
        "size": size, "views": seen.views.count(size), "precision": command.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return lambda: plain(pixels), lambda: seen(pixels), facts


def _of_file(command: Bench, path: Path) -> tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]:
    """Of an exported file, without torch."""
    import numpy as np

    from ..process import available_cores
    from ..runtime import Runtime

    check_fixed(path, command.device, command.precision)
    views = command.views.settings(path)
    runtime = Runtime(path, threads=command.threads, precision=command.precision)  # type: ignore[arg-type]
    input_size = runtime.size or runtime.card["input_size"]
    size = _size_of(command, input_size)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    facts = {
        "size": size, "views": len(runtime.views_of(size, **views)),
        "precision": runtime.info.get("precision", command.precision), "device": f"{runtime.engine}, cpu",
        "threads": command.threads or available_cores(),
    }  # fmt: skip
    more = {"batch_size": command.batch}
    return lambda: runtime(pixels, **more), lambda: runtime(pixels, **more, **views), facts


def _quantiles(look: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds, after one call that does not count."""
    import numpy as np

    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - start)
    median, slow = np.quantile(seconds[1:], (0.5, 0.9)).tolist()
    return {"median": 1000 * median, "p90": 1000 * slow}
