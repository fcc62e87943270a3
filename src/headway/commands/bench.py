"""`headway bench`: how fast a model is here, how much memory it takes, and where the time goes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..resolve import is_exported
from ..train.recipes import RECIPES
from .common import (
    Device,
    Precision,
    UsageError,
    check_fixed,
    load_model,
    pick_device,
    resolve_model,
    say,
    show,
    show_json,
    table,
)
from .picture_views import PictureViews


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Time `detect`, from normalised pixels to final boxes, on random pictures, and split the time by part.

    With --tiles or --tta: a whole prediction of a random picture, plain and in these views, and the price.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A checkpoint or run folder, a tag, a name or path of parts (random weights), or an exported file."""
    size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width. Default: the model's input size, landscape."""
    batch: int = 1
    """Pictures per call."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    threads: int = 0
    """Threads of the CPU; 0: torch's own choice."""
    repeats: int = 10
    """Timed calls, after two that are not timed."""
    train: bool = False
    """Time a training step in place of `detect`: the network and its gradients, loss, optimizer and EMA, by part."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Train on the pictures of this data set, and say how many arrive a second. Default: random pixels."""
    workers: int = 0
    """Of --data: processes that load pictures."""
    recipe: Annotated[str, arg(metavar=f"{{{','.join(RECIPES)}}}")] = "small"
    """Of --train: the recipe whose optimizer, EMA and augmentation are timed."""
    json: bool = False
    """Print the result as JSON."""
    views: OmitArgPrefixes[PictureViews] = field(default_factory=PictureViews)

    def run(self) -> int:
        for name, low in (("batch", 1), ("threads", 0), ("repeats", 1), ("workers", 0)):
            if getattr(self, name) < low:
                raise UsageError(f"--{name} must be at least {low}, got {getattr(self, name)}")
        if self.size is not None and min(self.size) < 32:
            raise UsageError(f"--size must be at least 32 by 32, got {self.size[0]} by {self.size[1]}")
        if self.workers and self.data is None:
            raise UsageError("--workers load the pictures of --data: name a data set, or leave them out")
        if (self.train or self.data is not None) and self.views.asked:
            raise UsageError("a training step has one view of a picture: leave out --tiles and --tta, or what trains")
        if self.train or self.data is not None:
            from .bench_train import run_train

            if self.views.asked:
                raise UsageError("--train and --data time training: leave out --tiles and --tta")

            return run_train(self)
        path = resolve_model(self.model).path  # what is missing is told before anything slow is imported
        if self.views.asked:
            from .bench_views import run_views

            self.views.settings(path if is_exported(path) else None)
            return run_views(self, path if is_exported(path) else None)
        if is_exported(path):
            check_fixed(path, self.device, self.precision)
        result = self._measure_file(path) if is_exported(path) else self._measure()
        if self.json:
            show_json(result)
            return 0
        latency = result["latency_ms"]
        show(
            f"{result['model']} at {result['size'][0]}x{result['size'][1]}, batch {self.batch}, {self.precision}, "
            f"{result['device']}, {result['threads']} threads\n"
            f"latency      {latency['median']:.1f} ms median, {latency['p90']:.1f} ms p90 of {self.repeats}\n"
            f"throughput   {result['images_per_s']:.2f} pictures/s\n"
            f"peak memory  {result['peak_memory_mib']:.0f} MiB ({result['memory_of']})"
        )
        if "macs" not in result:
            return 0
        show(f"work         {result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e9:.1f} GMAC a picture\n")
        whole = sum(result["parts_ms"].values())
        rows = [(name, f"{ms:.1f}", f"{100 * ms / whole:.0f}%") for name, ms in result["parts_ms"].items()]
        if result["deform_ms"]:
            share = 100 * result["deform_ms"] / whole
            rows.append(("of it: deformable convolutions", f"{result['deform_ms']:.1f}", f"{share:.0f}%"))
        show(table(("part", "ms", "share"), rows, right=(1, 2)))
        return 0

    def _measure_file(self, path: Path) -> dict[str, Any]:
        """An exported file, from the scaled picture to final boxes, without torch."""
        import time

        import numpy as np

        from ..process import available_cores, peak_of_process
        from ..runtime import Runtime

        runtime = Runtime(path, threads=self.threads, precision=self.precision)  # type: ignore[arg-type]
        sides = self.size or runtime.size or runtime.card["input_size"]
        if runtime.size not in (None, tuple(sides)) or runtime.batch not in (None, self.batch):
            form = "x".join(map(str, runtime.size or ("any size",)))
            raise UsageError(f"{path} takes {form}, batch {runtime.batch or 'any'}, got --size and --batch of another")
        pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
        inputs = [runtime.prepare(pixels)] * self.batch
        seconds = []
        for _ in range(self.repeats + 2):
            start = time.perf_counter()
            runtime.run(inputs)
            seconds.append(time.perf_counter() - start)
        median, slow = np.quantile(seconds[2:], (0.5, 0.9)).tolist()
        return {
            "model": self.model, "size": inputs[0][0].shape[1:], "batch": self.batch,
            "precision": runtime.info.get("precision", self.precision), "device": f"{runtime.engine}, cpu",
            "threads": self.threads or available_cores(),
            "latency_ms": {"median": 1000 * median, "p90": 1000 * slow}, "images_per_s": self.batch / median,
            "peak_memory_mib": peak_of_process() / 2**20, "memory_of": "the whole process",
        }  # fmt: skip

    def _measure(self) -> dict[str, Any]:
        import torch

        from .. import profile
        from ..layers.fuse import fuse
        from ..precision import check_precision

        if self.threads:
            torch.set_num_threads(self.threads)
        device = pick_device(self.device)
        check_precision(self.precision, device)
        torch.manual_seed(0)
        model = load_model(self.model, str(device), random=True)
        height, width = self.size or model.card.input_size
        counts = {"parameters": profile.count_parameters(model), "macs": profile.count_macs(model, (height, width))}
        model = fuse(model)  # as in prediction
        images = torch.rand(self.batch, 3, height, width, device=device)
        if not self.json:
            say(f"{self.repeats} calls ...")
        profile.reset_peak_memory(device)
        timing = profile.time_detect(model, images, precision=self.precision, repeats=self.repeats, warmup=2)
        peak = profile.peak_memory(device)
        median = timing.quantile(0.5)
        on_gpu = device.type == "cuda"
        return {
            "model": self.model, "size": (height, width), "batch": self.batch, "precision": self.precision,
            "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
            "threads": torch.get_num_threads(),
            **counts,
            "latency_ms": {"median": 1000 * median, "p90": 1000 * timing.quantile(0.9)},
            "images_per_s": self.batch / median,
            "peak_memory_mib": peak / 2**20,
            "memory_of": "CUDA tensors" if on_gpu else "the whole process",
            "parts_ms": {name: 1000 * seconds for name, seconds in timing.parts.items()},
            "deform_ms": 1000 * timing.deform,
        }  # fmt: skip
