"""ByteTrack against association by embeddings (JDE), and with against without implicit knowledge, on moving cut-outs.

    python benchmarks/moving.py --photos COCO_TINY_FOLDER --out moving
    python benchmarks/tracking.py run --data moving                  # trains and measures what has not run, in order
    python benchmarks/tracking.py run --data moving --models yolor --seeds 0 --minutes 30      # starts nothing later
    python benchmarks/tracking.py colours --data moving              # no network: histograms of colours for embeddings
    python benchmarks/tracking.py table                              # writes results/tracking.md
    python benchmarks/tracking.py speed                              # frames a second of the tracker alone

A finished run is a row of results/tracking.json, so that another machine goes on where this one ended; a run that was
stopped goes on from its last state. Each model tracks the clips of val twice, by `byte` and by `jde`, with the boxes
that it detects, and once more with the annotated boxes and its embeddings of these ("truth"), where only association is
left.
"""

import argparse
import fcntl
import json
import platform
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

import headway
from headway.compare.table import Difference, paired
from headway.data.batch import collate, to_model_input
from headway.data.formats.any_format import open_splits
from headway.data.image import read_image
from headway.files import write_atomically
from headway.predict import Predictor
from headway.track.api import usual_new_score
from headway.track.evaluate import score_tracks
from headway.track.formats import read_tracks
from headway.track.tracks import Tracks, rows_of
from headway.train.fit import TrainingStopped
from headway.train.state import STATE

RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "tracking.json"
SMALL: dict[str, Any] = {"width": 0.25, "embedding": 64, "input_size": (192, 256)}
MODELS: dict[str, dict[str, Any]] = {
    "yolor": SMALL,  # implicit values in front of each prediction and of the embedding, and behind the boxes
    "plain": {**SMALL, "align": None, "refine": None},
}
METHODS = ("byte", "jde")
Look = Callable[[Any], dict[str, headway.Detections]]  # of a record, by what its boxes are
FIGURES = ("HOTA", "AssA", "DetA", "IDF1", "MOTA", "IDSW")


# ------------------------------------------------------------------------------------------------------------ a run
def train(name: str, seed: int, data: dict[str, Any], out: Path, epochs: int) -> headway.Detector:
    """Gone on with where it was stopped; a finished one is only read."""
    place = out / f"{name}-{seed}-{epochs}x{len(data['train'])}"
    resume = (place / STATE).is_file() and (place / "config.json").is_file()
    if resume or not (place / "last.safetensors").is_file():
        if not resume:
            shutil.rmtree(place, ignore_errors=True)
        headway.train(
            "yolor_s", data, out=place, seed=seed, resume=resume, arguments=MODELS[name], epochs=epochs, batch_size=16,
            validate_every=4, recipe="small",
        )  # fmt: skip
    return headway.load(place / "last.safetensors")


def looks(model: headway.Detector) -> Look:
    """What is detected, and the annotated boxes with the embeddings there."""
    predictor = Predictor(model, threshold=0.1)

    def look(record: Any) -> dict[str, headway.Detections]:
        sample = predictor.prepare(read_image(record.path))
        (found,) = predictor.run([sample])
        batch = collate([sample], model.card.pad_value, model.card.pad_multiple)
        with torch.no_grad():
            raw = model(to_model_input(batch, torch.device("cpu")), batch.sizes)
            task = next(task for task in model.head.tasks if task.name == "identity")
            scale = torch.tensor(sample.meta.affine[:2]).repeat(2)
            rows = task.decode(raw, [torch.from_numpy(record.boxes) * scale])
        return {"detected": found, "truth": sure(record.boxes, rows)}

    return look


def colours(seed: int) -> Look:
    """The annotated boxes with histograms of their colours, as they are, and with noise of 4 % of their sides and every
    tenth of them lost. No network: what association alone can do on these clips."""
    rng = np.random.default_rng(seed)

    def look(record: Any) -> dict[str, headway.Detections]:
        pixels = read_image(record.path).numpy().astype(int) // 64
        codes = pixels[0] * 16 + pixels[1] * 4 + pixels[2]
        rows = np.zeros((len(record.boxes), 64))
        for row, (x1, y1, x2, y2) in zip(rows, record.boxes.astype(int).tolist()):
            x, y = (x2 - x1) // 6, (y2 - y1) // 6
            inner = codes[y1 + y : y2 - y, x1 + x : x2 - x].ravel()
            row[:] = np.sqrt(np.bincount(inner, minlength=64) / max(1, len(inner))) - 0.08
        sides = np.tile(record.boxes[:, 2:] - record.boxes[:, :2], 2)
        kept = rng.random(len(rows)) >= 0.1
        noisy = (record.boxes + rng.normal(0, 0.04, sides.shape) * sides)[kept]
        return {"truth": sure(record.boxes, rows), "noisy": sure(noisy, rows[kept])}

    return look


def sure(boxes: Any, rows: Any) -> headway.Detections:
    """Detections with score 1 and these embeddings."""
    count, extras = len(boxes), {"embeddings": torch.as_tensor(rows).float()}
    labels = torch.zeros(count, dtype=torch.int64)
    return headway.Detections(torch.as_tensor(boxes).float(), torch.ones(count), labels, extras=extras)


def measure(look: Look, folder: Path, new_score: float) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by "boxes method" and kind of clip. new_score: of the trackers."""
    file = folder / "annotations" / "val.json"
    kinds = {video["name"]: video["kind"] for video in json.loads(file.read_text())["videos"]}
    truth, names = read_tracks(file)
    rows: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    trackers: dict[tuple[str, str], headway.Tracker] = {}
    for record in open_splits(folder)["val"].records:
        clip, _, number = record.path.stem.rpartition("_")
        for boxes, found in look(record).items():
            for method in METHODS:
                key = f"{boxes} {method}"
                if (key, clip) not in trackers:
                    trackers[key, clip] = headway.Tracker(method=method, new_score=new_score)
                rows[key][clip] += rows_of(int(number) + 1, trackers[key, clip].update(found, int(number) / 25))
    result = {}
    for key, clips in rows.items():
        found = {clip: Tracks.of_rows(lines) for clip, lines in clips.items()}
        result[key] = {
            kind: _rounded(score_tracks(_of(truth, kinds, kind), found, names).summary)
            for kind in ("all", *dict.fromkeys(kinds.values()))
        }
    return result


def _of(truth: dict[str, Tracks], kinds: dict[str, str], kind: str) -> dict[str, Tracks]:
    """The clips of one kind, or all."""
    return {name: tracks for name, tracks in truth.items() if kind in ("all", kinds[name])}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figures[name], 5) for name in FIGURES}


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    splits = open_splits(options.data)
    splits["train"] = splits["train"].subset(list(range(0, len(splits["train"]), options.every)), "train")
    splits["val"] = splits["val"].subset(list(range(0, len(splits["val"]), 2 * options.every)), "val")
    for seed in options.seeds:
        for name in options.models:
            key = f"{name}/{seed}/{options.epochs} x {len(splits['train'])}"
            if key in finished() or time.monotonic() - started > 60 * options.minutes:
                continue
            cpu = time.process_time()
            try:
                model = train(name, seed, splits, options.out, options.epochs)
            except TrainingStopped as stopped:
                print(stopped)
                return
            metrics = {k: round(v, 5) for k, v in model.card.metrics.items() if isinstance(v, float)}
            keep(key, {
                "model": "yolor_s", "arguments": MODELS[name], "epochs": options.epochs,
                "pictures": len(splits["train"]), "metrics": metrics,
                "tracks": measure(looks(model), options.data, usual_new_score(model.card, 0.1)),
                "cpu_seconds": round(time.process_time() - cpu),
                "hardware": f"{_cpu()}, {options.threads} thread(s), torch {torch.__version__.partition('+')[0]}",
            })  # fmt: skip
            print(key, json.dumps(finished()[key]["tracks"]), flush=True)


def run_colours(options: argparse.Namespace) -> None:
    for seed in options.seeds:
        tracks = measure(colours(seed), options.data, 0.5)
        keep(f"colours/{seed}/none", {"model": "none", "tracks": tracks})
        print(f"colours/{seed}", json.dumps(tracks), flush=True)


def finished() -> dict[str, Any]:
    return json.loads(RUNS.read_text()) if RUNS.is_file() else {}


def keep(key: str, result: dict[str, Any]) -> None:
    """Add one run to the file, beside whatever other processes add."""
    with (Path(tempfile.gettempdir()) / "headway-tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = finished() | {key: json.loads(json.dumps(result))}
        lines = (f"{json.dumps(name)}: {json.dumps(run)}" for name, run in sorted(runs.items()))
        write_atomically(RUNS, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


# ------------------------------------------------------------------------------------------------------------ a table
def table(options: argparse.Namespace) -> None:
    """Mean and standard deviation over seeds of each model, boxes, tracker and kind of clip."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for key, row in finished().items():
        name, _, epochs = key.split("/")
        for setting, kinds in row["tracks"].items():
            for kind, figures in kinds.items():
                groups[name, epochs, *setting.split(), kind].append(figures)
    lines = [
        "# ByteTrack against JDE on moving cut-outs", "",
        "`benchmarks/moving.py` makes the clips, `benchmarks/tracking.py` trains and measures. Mean and standard",
        "deviation over seeds. cross, turn: two objects meet behind an occluder and walk on, or back. truth: annotated",
        "boxes with the model's embeddings there. noisy: with 4 % noise, a tenth of them lost. colours: no network,",
        "histograms of colours for embeddings.", "",
        f"| model | epochs | boxes | tracker | clips | seeds | {' | '.join(FIGURES)} |",
        f"|{'---|' * (6 + len(FIGURES))}",
    ]  # fmt: skip
    for group, rows in sorted(groups.items()):
        cells = [_spread([row[name] for row in rows]) for name in FIGURES]
        lines.append(f"| {' | '.join(group)} | {len(rows)} | {' | '.join(cells)} |")
    lines += ["", "Differences in HOTA, with the 95 % interval of their mean (Student's t), run by run.", ""]
    lines += ["| boxes | clips | jde - byte | implicit knowledge - without, jde |", "|---" * 4 + "|"]
    networks = {key: row["tracks"] for key, row in finished().items() if key.split("/")[0] in MODELS}
    for boxes in ("detected", "truth"):
        for kind in sorted(networks[next(iter(networks))]["detected byte"]) if networks else []:
            hota = {
                (key, method): tracks[f"{boxes} {method}"][kind]["HOTA"]
                for key, tracks in networks.items() for method in METHODS
            }  # fmt: skip
            runs = dict(enumerate(networks))
            gain = paired(*({n: hota[key, method] for n, key in runs.items()} for method in ("jde", "byte")))
            implicit = paired(*(
                {int(key.split("/")[1]): hota[key, "jde"] for key in networks if key.startswith(name)}
                for name in MODELS
            ))  # fmt: skip
            lines.append(f"| {boxes} | {kind} | {_interval(gain)} | {_interval(implicit)} |")
    (RESULTS / "tracking.md").write_text("\n".join(lines) + "\n")


def _interval(difference: Difference | None) -> str:
    if difference is None or difference.low is None:
        return ""
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}], {difference.seeds} runs"


def _spread(values: list[float]) -> str:
    mean = f"{fmean(values):.3f}" if max(values) <= 1 else f"{fmean(values):.0f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.3f}"


def speed(options: argparse.Namespace) -> None:
    """Frames a second of `Tracker.update` on 50 boxes that wander, one thread."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    centre, step = rng.uniform(100, 1800, (50, 2)), rng.normal(0, 3, (50, 2))
    frames = []
    for t in range(600):
        middle = centre + t * step + rng.normal(0, 1, (50, 2))
        boxes = torch.from_numpy(np.concatenate([middle - 25, middle + 25], 1)).float()
        embeddings = torch.from_numpy(np.eye(64)[:50] + rng.normal(0, 0.02, (50, 64))).float()
        scores, labels = torch.full((50,), 0.9), torch.zeros(50, dtype=torch.int64)
        frames.append(headway.Detections(boxes, scores, labels, extras={"embeddings": embeddings}))
    for method in METHODS:
        tracker = headway.Tracker(25, method=method)
        begin = time.process_time()
        for frame in frames:
            tracker.update(frame)
        rate = len(frames) / (time.process_time() - begin)
        print(f"{method}: {rate:.0f} frames/s of CPU time, {tracker.count} identities of 50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "colours", "table", "speed"))
    parser.add_argument("--data", type=Path, help="of moving.py")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="train on every so many frames")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing later")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/tracking"))
    options = parser.parse_args()
    if options.what in ("run", "colours") and options.data is None:
        parser.error(f"{options.what} needs --data")
    {"run": run, "colours": run_colours, "table": table, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
