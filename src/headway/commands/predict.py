"""`headway predict`: pictures with boxes, and one JSON with all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..files import CHECKPOINTS, image_id_of
from ..options import FEW, LOW, best_thresholds
from ..resolve import is_exported
from . import common
from .common import Device, Precision, UsageError, check_fixed, resolve_model, say, show, show_json, write_json
from .picture_views import PictureViews

if TYPE_CHECKING:
    from ..findings import Prediction
    from ..predict.labels import LabelFormat, Labels

SHIPPED = Path(__file__).parent.parent / "assets" / "demo.safetensors"
DEFAULT_OUT = Path("runs/predict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Detect in pictures: `headway predict MODEL PATHS...`, or `headway predict PATHS...` with the small
    checkpoint that ships inside (blood cells).

    Writes each picture with its boxes, and predictions.json with COCO result rows (bbox is x, y, width, height in
    pixels) that also hold the file and the class name, which `headway eval --results` matches with a data set's;
    image_id is the file's name without its ending, as a number where it is one. With a model that scores tags it writes
    tags.json with those of each picture. A file that cannot be read is reported and left out, and the exit code is then
    1. After Ctrl-C the files hold the pictures that were done.
    """

    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL PATHS...")]
    """A checkpoint, run folder, published tag (atss_r50_fpn.mmdet) or exported file (photos.onnx), then picture files,
    folders and glob patterns; for a job also lists (.txt, .parquet), COCO files and addresses of storage (s3://...)."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the results. Default: runs/predict, or runs/predict-2 and so on when that is taken. Of a job: its
    folder, with which the same command goes on."""
    recursive: bool = False
    """Search folders to the bottom."""
    threshold: float | Literal["best"] = 0.3
    """Keep detections whose final score is higher (0.05 for a JSON that is to be evaluated). best: of each class the
    one of its best F1 in validation, which a training keeps in the checkpoint."""
    max_detections: int | None = None
    """Most detections per picture. Default: the model's own."""
    nms_iou: float | Literal["card", "none"] = "card"
    """Drop a box that overlaps a better one of its class by more than this. card: as the model says; none: keep all."""
    classes: tuple[str, ...] = ()
    """Names of the classes to keep. Default: all."""
    fps: float | None = None
    """Take folders and patterns of pictures as frames of a video, so many a second."""
    every: int = 1
    """Of a video, look at frame 0, N, 2N, ... only."""
    seconds: float | None = None
    """Of a video, camera or stream, look at so many seconds only. A live source also ends with Ctrl-C."""
    no_pictures: bool = False
    """Leave the pictures or the video out and write the JSON only."""
    pictures: bool = False
    """Of a job: draw the pictures too, into the folder `pictures` of the job."""
    as_labels: Literal["voc", "yolo", "coco"] | None = None
    """Make the folder a data set of the pictures and what was found, scores included, in which a person corrects boxes
    in place of drawing them: for headway, CVAT and Label Studio. No boxes are drawn."""
    hardlink: bool = False
    """Of such a data set: share the pictures' bytes with the originals where the file system can."""
    batch_size: int = 4
    """Most pictures per pass."""
    precision: Precision = "fp32"
    """Number format of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    workers: int | None = None
    """Make it a job for very many pictures, with so many processes: it goes on after a crash, searches folders to the
    bottom and draws only with --pictures. With --ray: so many actors."""
    ray: Annotated[str | None, arg(metavar="auto|ADDRESS")] = None
    """Make it a job on a Ray cluster: the one that runs (else one of this machine), or the one at an address."""
    shard: Annotated[str | None, arg(metavar="K/N")] = None
    """Make it a job of which this process does one part of N, as in a Slurm array."""
    shard_size: int | None = None
    """Pictures of a job's shard, the unit that is done whole or done again. Default: 256, fewer of a small job."""
    threads: int | None = None
    """Threads of each process of a job. Default: OMP_NUM_THREADS, else 1; results differ a little by it."""
    time_limit: float = 60.0
    """Seconds after which a picture of a job counts as hung."""
    parquet: bool = False
    """Of a job: write predictions.parquet too."""
    merge: Annotated[Path | None, arg(metavar="JOB")] = None
    """Merge the parts of a job whose shards are all done, and do nothing else."""
    json: bool = False
    """Print the result as JSON: the rows, and the files that failed; of a job the numbers alone."""
    views: OmitArgPrefixes[PictureViews] = field(default_factory=PictureViews)

    def run(self) -> int:
        from ..predict import frames
        from . import predict_job, predict_video

        if self.merge is not None:
            return predict_job.merge_only(self)
        model_name, inputs = _split_inputs(self.inputs)
        is_job = (self.workers, self.ray, self.shard) != (None, None, None)
        is_video = self.fps is not None or any(map(frames.is_video, inputs))
        self._check(is_job, is_video)
        if is_video:
            return predict_video.run_video(self, model_name, inputs)
        if is_job:
            return predict_job.run_job(self, model_name, inputs)

        from ..predict import find_images

        found = resolve_model(model_name)  # what is missing is told before anything slow is imported
        paths = find_images(inputs, recursive=self.recursive)

        looks = self._of_file(found.path, paths) if is_exported(found.path) else self._of_model(model_name, paths)
        limits = best_thresholds(looks.card) if self.threshold == "best" else self.threshold
        out = common.new_folder(DEFAULT_OUT) if self.out is None else common.claim_folder(self.out)
        results = _Results(out, looks.card, limits, looks.cap, paths)
        if self.as_labels:
            results.label(self.as_labels, self.hardlink)
        names = {} if self.no_pictures or self.as_labels else free_names(paths, inputs)
        try:
            with common.progress_bar("predicting") as progress:
                for prediction in looks.predictions:
                    results.add(prediction, names.get(prediction.path))
                    progress(results.number, len(paths))
        except KeyboardInterrupt:
            with common.finishing():
                results.write()
            say(f"interrupted after {results.number} of {len(paths)} pictures; {out} holds those")
            raise
        with common.finishing():
            results.write()
        results.advise()
        if self.json:
            show_json(results.summary())
        else:
            show(f"{len_of(results.total, 'detection')} in {results.pictures}: {out}")
        return 1 if results.failed else 0

    def _check(self, is_job: bool, is_video: bool) -> None:
        """Raises: UsageError."""
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, got {self.batch_size}")
        if self.threshold != "best" and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold must be in 0..1, got {self.threshold}; or say best")
        if is_job and (self.threshold == "best" or self.as_labels):
            option = "--as-labels" if self.as_labels else "--threshold best"
            raise UsageError(f"a job does not take {option}; leave out --workers, --ray and --shard, or {option}")
        of_a_job = {"pictures": False, "parquet": False, "shard_size": None, "threads": None, "time_limit": 60.0}
        if not is_job and (alone := [name for name, usual in of_a_job.items() if getattr(self, name) != usual]):
            raise UsageError(f"--{alone[0].replace('_', '-')} is of a job: add --workers N, or leave it out")
        if is_job and self.views.asked:
            raise UsageError("a job looks at each picture once: leave out --tiles and --tta, or what makes it a job")
        if is_video and self.as_labels:
            raise UsageError("--as-labels is for pictures; save the frames of a video as pictures first")
        if not is_video and (self.every != 1 or self.seconds is not None):
            raise UsageError("--every and --seconds are of videos, cameras and streams; pictures are all looked at")
        if self.hardlink and not self.as_labels:
            raise UsageError("--hardlink is for the pictures of a data set: say which, as in --as-labels yolo")

    def _of_model(self, name: str | Path, paths: list[Path]) -> _Looks:
        from ..data.depth import white_of_files
        from ..predict import Predictor

        model = common.load_model(name)
        predictor = Predictor(
            model, common.pick_device(self.device), self.precision, self.batch_size, self.lowest,
            max_detections=self.max_detections, nms_iou=None if self.nms_iou == "none" else self.nms_iou,
            classes=self.classes or None, white=model.card.white or white_of_files(paths), fuse=len(paths) > FEW,
            **self.views.settings(),
        )  # fmt: skip
        return _Looks(predictor.predict_paths(paths), model.card, predictor.max_detections)

    @property
    def lowest(self) -> float:
        """The weakest score to look at."""
        return LOW if self.threshold == "best" else min(self.threshold, LOW)

    def _of_file(self, path: Path, paths: list[Path]) -> _Looks:
        """Of an exported file, without torch."""
        from ..data.depth import white_of_files
        from ..runtime import Runtime

        check_fixed(path, self.device, self.precision, nms_iou=(self.nms_iou, "card"))
        views = self.views.settings(path)
        runtime = Runtime(path, precision=self.precision)  # type: ignore[arg-type]
        runtime.white = runtime.white or white_of_files(paths)
        predictions = runtime.predict_paths(
            paths, batch_size=self.batch_size, threshold=self.lowest, classes=self.classes or None,
            max_detections=self.max_detections, **views,
        )  # fmt: skip
        cap = runtime.most(self.max_detections, tiles=views["tiles"])
        return _Looks(predictions, SimpleNamespace(**runtime.card), cap)


class _Looks(NamedTuple):
    """What looks at the pictures. card: a ModelCard, or what an exported file has of it; cap: detections of a picture
    that are kept at most."""

    predictions: Iterable[Prediction]
    card: Any
    cap: int


class _Results:
    """What is written and said. threshold: of the detections that count, for all classes or by label; the predictor
    also gives weaker ones, so that the best can be told where none counts. number: pictures looked at so far."""

    def __init__(self, out: Path, card: Any, threshold: float | tuple[float, ...], cap: int, paths: list[Path]) -> None:
        self.out, self.card, self.threshold, self.cap, self.count = out, card, threshold, cap, len(paths)
        self.ids = image_ids(paths)
        self.rows: list[dict[str, Any]] = []
        self.tags: dict[str, dict[str, float]] = {}
        self.failed: dict[str, str] = {}
        self.number = self.total = self.capped = 0
        self.best = 0.0
        self.labels: Labels | None = None
        self._how: dict[str, Any] = {}

    def label(self, format: LabelFormat, hardlink: bool) -> None:
        """Make a data set of the results, too."""
        from ..predict.labels import Labels

        self.labels = Labels(self.card.class_names, self.card.category_ids, self.card.model)
        self._how = {"format": format, "hardlink": hardlink}

    def add(self, prediction: Prediction, name: str | None) -> None:
        """One picture; drawn under `name` where there is one."""
        self.number += 1
        path, found = prediction.path, prediction.detections
        if found is None:
            self.failed[str(path)] = prediction.error
            say(f"skipped: {prediction.error}")
            return
        self.best = max(self.best, *found.scores.tolist(), 0.0)
        found = found.filter(threshold=self.threshold)
        self.total += len(found)
        self.capped += len(found) == self.cap
        if found.tags is not None:
            self.tags[str(path)] = found.tag_scores()
        if self.labels is not None:
            self.labels.add(path, found)
        rows = found.to_coco(self.ids[path], self.card.category_ids or None)
        self.rows += [row | {"file_name": str(path), "category_name": d.name} for row, d in zip(rows, found)]
        if name is not None:
            target = self.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            found.plot(prediction.image).save(target, quality=92)

    def write(self) -> None:
        """predictions.json, tags.json where there are tags, and the data set where one is asked for."""
        if self.labels is not None:
            copies = {str(path): str(copy) for path, copy in self.labels.write(self.out, **self._how).items()}
            for row in self.rows:  # a/1.jpg and b/1.jpg have other names there
                row["file_name"] = copies[row["file_name"]]
        for name, value in (("predictions.json", self.rows), ("tags.json", self.tags)):
            if value or name == "predictions.json":
                write_json(self.out / name, value)

    def advise(self) -> None:
        limit = min(self.threshold) if isinstance(self.threshold, tuple) else self.threshold
        advise(self.total, self.best, limit, self.card.metrics.get("threshold"), self.capped, self.cap)

    @property
    def pictures(self) -> str:
        """As in: 3 pictures, or 2 of 3 pictures."""
        return (f"{self.count - len(self.failed)} of " if self.failed else "") + len_of(self.count, "picture")

    def summary(self) -> dict[str, Any]:
        """For --json."""
        done = self.count - len(self.failed)
        result = {"out": self.out, "images": done, "failed": self.failed, "predictions": self.rows}
        return result | ({"tags": self.tags} if self.tags else {})


def advise(total: int, best: float, threshold: float, known: Any, capped: int, cap: int, noun: str = "picture") -> None:
    """Say on stderr what to change where nothing was found, or where the cap left something out.

    best: the highest score; known: the threshold of validation with the best F1; capped: pictures (`noun`) with
    `cap` of them.
    """
    if not total and best > 0:
        lower = float(f"{0.8 * best:.2g}")
        if isinstance(known, float) and 0 < known < best:
            lower = math.floor(100 * known) / 100 or lower
        say(f"nothing scores above {threshold:g}; the highest score is {best:.3f}: try --threshold {lower:g}")
    if capped:
        say(f"{len_of(capped, noun)} with the {cap} detections that are kept: --max-detections keeps more")


def len_of(count: int, noun: str) -> str:
    """As in: 1 picture, 2 pictures."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _split_inputs(inputs: tuple[str, ...]) -> tuple[Path | str, tuple[str, ...]]:
    """(model, what to look at); the shipped checkpoint where the first input is a picture or a folder of pictures."""
    from ..predict.files import is_image_name, other_kind
    from ..predict.frames import is_video

    if not inputs:
        raise UsageError("name a checkpoint or run folder and pictures: headway predict best.safetensors photo.jpg")
    first = Path(inputs[0])
    run_folder = first.is_dir() and any((first / name).exists() for name in ("config.json", *CHECKPOINTS))
    video = is_video(inputs[0])
    if other_kind(first) and not video:
        raise UsageError(f"{first} is no picture: {other_kind(first)}")
    if not (video or is_image_name(first) or (first.is_dir() and not run_folder)):
        if len(inputs) == 1:
            raise UsageError(f"name the pictures too: headway predict {first} photo.jpg")
        return inputs[0], inputs[1:]
    if not SHIPPED.is_file():
        raise UsageError(f"{first} is no checkpoint, and none ships with this headway: name one before the pictures")
    say("no model is named: this is the small one for blood cells that ships inside")
    return SHIPPED, inputs


def free_names(paths: list[Path], inputs: Iterable[str | Path] = ()) -> dict[Path, str]:
    """A name for each picture with boxes: its own as JPEG, with a number where two would be the same; of one below a
    folder among `inputs` with the sub-folders that lead to it."""
    taken: set[str] = set()
    names = {}
    roots = [Path(item) for item in inputs]
    for path in paths:
        root = next((root for root in roots if root != path and path.is_relative_to(root)), path.parent)
        stem = path.relative_to(root).with_suffix("").as_posix()
        candidates = chain([f"{stem}.jpg"], (f"{stem}-{number}.jpg" for number in count(2)))
        names[path] = next(name for name in candidates if name.lower() not in taken)
        taken.add(names[path].lower())
    return names


def image_ids(paths: list[Path]) -> dict[Path, int | str]:
    """An id for each picture: its name without the ending, as a number where it is one, as in COCO's own files; the
    whole path where two would be the same. Not a running number, which might be the id of another picture."""
    ids = {path: image_id_of(path) for path in paths}
    often = Counter(ids.values())
    return {path: str(path) if often[number] > 1 else number for path, number in ids.items()}
