"""Pictures per second and core: file to resized uint8 pixels, and file to augmented training batch.

Decoding: headway (header check, EXIF orientation, keep-ratio resize) against torchvision as it is meant to be used
(decode_image, v2.Resize on uint8, antialiased) and against Pillow; repeats in random order, medians, CPU time of one
thread (so that other load on the machine counts little). Loading: `make_loader` per preset, with and without
cache="ram". Without --images, photograph-like JPEGs are made (noise at all scales, quality 90). Writes
benchmarks/results/decode.json and .md.

    python benchmarks/decode.py
    python benchmarks/decode.py --images some/folder --repeats 20
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from headway.data.augment.resize import eval_transform, fit_size
from headway.data.dataset import DetectionData, Record
from headway.data.image import SUFFIXES, image_size, read_image
from headway.data.loader import make_loader
from headway.types import ModelCard

RESULTS = Path(__file__).parent / "results"
SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920)}
INPUT_SIZES = ((800, 1333), (240, 320))


def make_photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """JPEGs whose spectrum falls off as a photograph's: equal energy in every octave, correlated channels."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for number in range(count):
        pixels = torch.full((1, 3, *size), 128.0)
        for step in (4, 8, 16, 32, 64, 128, 256):
            low = torch.randn(1, 3, size[0] // step + 2, size[1] // step + 2, generator=generator)
            low = 14 * (0.3 * low + low.mean(1, keepdim=True))
            pixels += torch.nn.functional.interpolate(low, size, mode="bicubic")
        array = pixels[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()
        paths.append(folder / f"{size[1]}x{size[0]}_{number}.jpg")
        Image.fromarray(array).save(paths[-1], quality=90)
    return paths


TRANSFORMS = {input_size: eval_transform(input_size) for input_size in INPUT_SIZES}
PEERS = {(short, long): v2.Resize(short, max_size=long, antialias=True) for short, long in INPUT_SIZES}


def by_headway(path: Path, input_size: tuple[int, int]) -> torch.Tensor:
    return TRANSFORMS[input_size](read_image(path))


def by_torchvision(path: Path, input_size: tuple[int, int]) -> torch.Tensor:
    return PEERS[input_size](decode_image(str(path), ImageReadMode.RGB, apply_exif_orientation=True))


def by_pillow(path: Path, input_size: tuple[int, int]) -> torch.Tensor:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    height, width = fit_size((picture.height, picture.width), input_size)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


VARIANTS = {"headway": by_headway, "torchvision": by_torchvision, "pillow": by_pillow}


def measure_decoding(paths: list[Path], input_size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Pictures per second of CPU time, by variant; and the largest difference to Pillow in grey levels."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in range(repeats + 1):
        for name in random.sample(list(VARIANTS), len(VARIANTS)):  # none always follows the same one's memory
            start = time.process_time()
            for path in paths:
                VARIANTS[name](path, input_size)
            if repeat:  # the first is the warm-up
                seconds[name].append((time.process_time() - start) / len(paths))
    result = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    ours, theirs = (variant(paths[0], input_size).int() for variant in (by_headway, by_pillow))
    result["difference_to_pillow"] = float((ours - theirs).abs().max())
    return result


def measure_loading(paths: list[Path], preset: str, cache: str, epochs: int) -> float:
    """Milliseconds of CPU time per picture of a training epoch at 320x240, batch 8, 15 boxes each."""
    generator = np.random.default_rng(0)
    records = []
    for number, path in enumerate(paths):
        height, width = image_size(path)
        low = generator.uniform(0, 0.8, (15, 2)) * (width, height)
        boxes = np.concatenate([low, low + generator.uniform(0.05, 0.2, (15, 2)) * (width, height)], 1)
        fields = np.zeros(15, np.int64), np.zeros(15, bool), np.ones(15, np.float32)
        records.append(Record(number, path, (height, width), boxes.astype(np.float32), *fields))
    data = DetectionData("made", paths[0].parent, "coco", records, ("thing",), (1,))
    card = ModelCard(input_size=(240, 320), class_names=("thing",))
    loader = make_loader(data, card, batch_size=8, train=True, preset=preset, cache=cache)
    seconds = []
    for epoch in range(epochs + 1):
        loader.set_epoch(epoch)
        start = time.process_time()
        for _ in loader:
            pass
        if epoch:
            seconds.append((time.process_time() - start) / len(paths))
    return 1000 * statistics.median(seconds)


def write_results(report: dict, out: Path) -> None:
    out.mkdir(exist_ok=True)
    (out / "decode.json").write_text(json.dumps(report, indent=1) + "\n")
    machine = report["machine"]
    lines = [
        "# Decoding and loading",
        "",
        f"`python benchmarks/decode.py` on {machine['processor']}, one thread, torch {machine['torch']}, torchvision "
        f"{machine['torchvision']}, Pillow {machine['pillow']}. Pictures per second and core, decoded and resized.",
        "",
        "| pictures | to | headway | torchvision | Pillow | to torchvision | to Pillow | grey levels off Pillow |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["decoding"]:
        ours, peer, pillow = row["headway"], row["torchvision"], row["pillow"]
        lines.append(
            f"| {row['pictures']} | {row['input_size'][0]}/{row['input_size'][1]} | {ours:.0f} | {peer:.0f} | "
            f"{pillow:.0f} | {ours / peer:.2f}x | {ours / pillow:.2f}x | {row['difference_to_pillow']:.0f} |"
        )
    lines += [
        "",
        "Training samples at 320x240, ms per picture and core:",
        "",
        "| preset | decoded each time | cache=ram |",
    ]
    lines += ["|---|---|---|"]
    for preset, row in report["loading_ms"].items():
        lines.append(f"| {preset} | {row['none']:.2f} | {row['ram']:.2f} |")
    (out / "decode.md").write_text("\n".join(lines) + "\n")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of pictures instead of the made ones")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": Image.__version__}
    report: dict = {"machine": {"processor": processor()} | versions, "decoding": [], "loading_ms": {}}
    with tempfile.TemporaryDirectory() as folder:
        if options.images:
            found = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in SUFFIXES)
            sets = {options.images.name: found[: options.count]}
        else:
            sets = {name: make_photographs(Path(folder), size, options.count) for name, size in SIZES.items()}
        for name, paths in sets.items():
            for input_size in INPUT_SIZES:
                row = {"pictures": name, "input_size": input_size}
                report["decoding"].append(row | measure_decoding(paths, input_size, options.repeats))
        paths = next(iter(sets.values())) * 4
        for preset in ("mmdet", "small", "mosaic"):
            times = {cache: measure_loading(paths, preset, cache, 3) for cache in ("none", "ram")}
            report["loading_ms"][preset] = times
    write_results(report, options.out)
    print((options.out / "decode.md").read_text())


if __name__ == "__main__":
    main()
