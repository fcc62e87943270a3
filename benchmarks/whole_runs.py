"""Whole runs on the CPU: pictures on disk to trained weights, and a folder of pictures to drawn boxes and a JSON.

    python benchmarks/whole_runs.py
    python benchmarks/whole_runs.py --only predict --pictures 16 --rounds 3

Pictures are made: JPEGs of 640x480 with the spectrum of photographs (decode.py). Both sides have FCOS on a ResNet-50
with FPN, the same number of classes, input size, optimizer, threads and loading processes.

Training: `headway.train` for one epoch against torchvision's reference loop (references/detection, backend PIL, preset
hflip), with what each writes at the end of an epoch. Prediction: what `headway predict` runs (read, scale, batch,
detect, draw, write JPEG and JSON) against torchvision's way: decode_image, the model, draw_bounding_boxes, write_jpeg.
The 20 best boxes of each picture are drawn. Columns as in train_step.py: "as it comes" is fp32 and NCHW, "at its best"
bf16 autocast and channels-last. Seconds are of the wall clock; rounds are interleaved.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from decode import make_photographs
from inference import cpu_name
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import decode_image, write_jpeg
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes
from train_step import VARIANTS, ratio, torchvision_peer

import headway
from headway.commands.predict import _Results
from headway.data.dataset import DetectionData, Record
from headway.options import FEW
from headway.predict import Predictor
from headway.train.recipes import recipe

RESULTS = Path(__file__).parent / "results"
CLASSES, BOXES, DRAWN = 80, 8, 20
SIZE = (480, 640)
Run = Callable[[Path], object]


def made_data(paths: list[Path]) -> DetectionData:
    generator = np.random.default_rng(0)
    records = []
    for number, path in enumerate(paths):
        low = generator.uniform(0, 0.7, (BOXES, 2)) * (SIZE[1], SIZE[0])
        boxes = np.concatenate([low, low + generator.uniform(0.05, 0.3, (BOXES, 2)) * (SIZE[1], SIZE[0])], 1)
        labels, crowd = generator.integers(0, CLASSES, BOXES), np.zeros(BOXES, bool)
        records.append(Record(number, path, SIZE, boxes.astype(np.float32), labels, crowd, np.ones(BOXES, np.float32)))
    names = tuple(map(str, range(CLASSES)))
    return DetectionData("made", paths[0].parent, "coco", records, names, tuple(range(1, CLASSES + 1)))


# ------------------------------------------------------------------------------------------------------- training
def our_training(data: DetectionData, precision: str, options: argparse.Namespace) -> Run:
    def run(folder: Path) -> None:
        arguments = {"backbone.norm": "frozen", "backbone.frozen_stages": 1}
        model = headway.create_model(
            "fcos_r50_fpn", class_names=data.class_names, input_size=tuple(options.size), **arguments
        )
        settings = recipe("mmdet_1x").changed(
            epochs=1, batch_size=options.batch, learning_rate=1e-4, base_batch_size=0, precision=precision,
            workers=options.workers, device="cpu", out=folder / "run",
        )  # fmt: skip
        with redirect_stderr(StringIO()):
            headway.train.fit.fit(model, data, None, settings)

    return run


class Reference(torch.utils.data.Dataset):
    """Pictures as torchvision's reference reads them."""

    def __init__(self, data: DetectionData) -> None:
        self.records = data.records
        self.transform = v2.Compose(
            [v2.PILToTensor(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        picture = Image.open(record.path).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes), format="XYXY", canvas_size=SIZE)
        return self.transform(picture, {"boxes": boxes, "labels": torch.from_numpy(record.labels)})


def collate(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch))


def peer_training(data: DetectionData, best: bool, options: argparse.Namespace) -> Run:
    def run(folder: Path) -> None:
        model = torchvision_peer("fcos", "frozen", tuple(options.size), best=False).train()
        if best:
            model = model.to(memory_format=torch.channels_last)
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=best)
        loader = torch.utils.data.DataLoader(
            Reference(data), batch_size=options.batch, shuffle=True, drop_last=True, num_workers=options.workers,
            collate_fn=collate,
        )  # fmt: skip
        for images, targets in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=best):
                losses = sum(model(list(images), list(targets)).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pth")

    return run


# ----------------------------------------------------------------------------------------------------- prediction
def our_prediction(paths: list[Path], precision: str, options: argparse.Namespace) -> Run:
    torch.manual_seed(0)
    model = headway.create_model("fcos_r50_fpn", num_classes=CLASSES, input_size=tuple(options.size)).eval()

    def run(folder: Path) -> None:
        chosen = {"threshold": 0.0, "max_detections": DRAWN}
        predictor = Predictor(model, "cpu", precision, options.batch, fuse=len(paths) > FEW, **chosen)
        results = _Results(folder, model.card, 0.0, DRAWN, paths)
        for prediction in predictor.predict_paths(paths):
            results.add(prediction, prediction.path.name)
        results.write()

    return run


def peer_prediction(paths: list[Path], best: bool, options: argparse.Namespace) -> Run:
    torch.manual_seed(0)
    model = torchvision_peer("fcos", "batch", tuple(options.size), best=False).eval()
    model.score_thresh, model.detections_per_img = 0.0, DRAWN
    if best:
        model = model.to(memory_format=torch.channels_last)

    def batches() -> Iterator[list[Path]]:
        for start in range(0, len(paths), options.batch):
            yield paths[start : start + options.batch]

    def run(folder: Path) -> None:
        rows = []
        for chosen in batches():
            pictures = [decode_image(str(path), mode="RGB") for path in chosen]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=best):
                found = model([picture / 255 for picture in pictures])
            for path, picture, one in zip(chosen, pictures, found):
                named = zip(one["labels"].tolist(), one["scores"].tolist())
                labels = [f"{label} {score:.2f}" for label, score in named]
                drawn = draw_bounding_boxes(picture, one["boxes"], labels, width=2)
                write_jpeg(drawn, str(folder / path.name), quality=92)
                boxes = zip(one["boxes"].tolist(), one["labels"].tolist(), one["scores"].tolist())
                rows += [{"image_id": path.stem, "bbox": b, "category_id": c, "score": s} for b, c, s in boxes]
        (folder / "predictions.json").write_text(json.dumps(rows))

    return run


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, interleaved, each in a folder of its own, after one of each that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run(Path(folder))
                if number:
                    times[name].append(time.perf_counter() - start)
    return times


def write_table(results: dict[str, Any]) -> str:
    lines = ["# Whole runs on the CPU: pictures a second", "", results["about"], ""]
    lines += [f"| run | {' | '.join(VARIANTS)} | fp32 / as it comes | bf16 / at its best | bf16 / as it comes |"]
    lines += ["|---" * 8 + "|"]
    for name, row in results["runs"].items():
        times, count = row["seconds"], row["pictures"]
        cells = [f"{count / statistics.median(times[v]):.2f}" for v in VARIANTS]
        cells += [f"{ratio(times, VARIANTS[peer], VARIANTS[ours]):.2f}x" for peer, ours in ((0, 2), (1, 3), (0, 3))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("train", "predict"), default=("train", "predict"))
    parser.add_argument("--pictures", type=int, default=32, help="to train on; twice as many to predict")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 427), help="short and long side of the input")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = options.out / "whole_runs.json"
    results = json.loads(file.read_text()) if file.is_file() else {"runs": {}}
    with tempfile.TemporaryDirectory() as place:
        paths = make_photographs(Path(place), SIZE, 2 * options.pictures)
        data = made_data(paths[: options.pictures])
        for kind in options.only:
            peer, ours, source = (
                (peer_training, our_training, data) if kind == "train" else (peer_prediction, our_prediction, paths)
            )
            runs: dict[str, Run] = {
                VARIANTS[0]: peer(source, False, options), VARIANTS[1]: peer(source, True, options),
                VARIANTS[2]: ours(source, "fp32", options), VARIANTS[3]: ours(source, "bf16", options),
            }  # fmt: skip
            times = measure(runs, options.rounds)
            results["runs"][kind] = {
                "pictures": len(data if kind == "train" else paths),
                "seconds": {v: [round(s, 3) for s in row] for v, row in times.items()}
            }  # fmt: skip
            results["about"] = (
                f"{cpu_name()}, {options.threads} threads, {options.workers} loading processes, load average "
                f"{os.getloadavg()[0]:.1f} at the end, torch {torch.__version__}, torchvision "
                f"{torchvision.__version__}; FCOS R50, {len(data)} pictures of {SIZE[1]}x{SIZE[0]} to train on and "
                f"{len(paths)} to predict, input "
                f"{options.size[0]}x{options.size[1]}, batch {options.batch}, {options.rounds} interleaved rounds."
            )
            print(kind, {v: round(statistics.median(s), 2) for v, s in times.items()}, flush=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "whole_runs.md").write_text(write_table(results))
    print(write_table(results))


if __name__ == "__main__":
    main()
