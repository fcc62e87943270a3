"""`headway predict` as a job: --workers, --ray, --shard, and --merge."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HeadwayError
from ..plugins import loaded_plugins
from ..resolve import is_exported
from ..runtime.engines import weights_of
from . import common
from .common import UsageError, check_fixed, resolve_model, say, show, show_json

if TYPE_CHECKING:
    from ..jobs import Plan, Settings
    from .predict import Predict


def run_job(command: Predict, model: str | Path, sources: tuple[str, ...]) -> int:
    """Plan the job or go on with it, do the shards that have no part, and merge when all are there."""
    from ..jobs import make_plan
    from ..jobs.runners import missing_shards, shards_of
    from ..jobs.sources import list_pictures

    if command.out is None:
        raise UsageError("a job needs a folder to go on with: name one by --out JOB")
    settings = _settings(command, model)
    if command.shard is not None:
        shards_of(command.shard, 0)  # refuses what is none, before there is a plan
    plan = make_plan(command.out, settings, list_pictures(sources))
    chosen = range(plan.shards) if command.shard is None else shards_of(command.shard, plan.shards)
    left = missing_shards(plan, chosen)
    if len(left) < len(chosen):
        say(f"{command.out}: {len(chosen) - len(left)} of {len(chosen)} shards are done already")
    try:
        if left:
            _work(command, plan, left)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on with the {len(missing_shards(plan, chosen))} shards that are left")
        raise
    if missing_shards(plan):
        if command.json:
            show_json({"out": command.out, "shards": len(chosen), "of": plan.shards})
        else:
            show(f"{len(chosen)} of {plan.shards} shards: {command.out}; the process that ends last merges")
        return 0
    return merge_job(command, plan)


def merge_job(command: Predict, plan: Plan) -> int:
    """Merge the parts and say what there is. The exit code is 1 where pictures failed, as of `headway predict`."""
    from ..jobs import merge
    from .predict import advise, len_of

    with common.progress_bar("merging") as progress:
        summary = merge(plan, parquet=command.parquet, progress=progress)
    failed, count = summary["failed"], summary["pictures"]
    if failed:
        say(f"failed: {len_of(failed, 'picture')}; the reasons are in {plan.folder / 'failed.jsonl'}")
    total, best, capped, cap = (summary[name] for name in ("detections", "best", "capped", "cap"))
    advise(total, best, plan.settings.threshold, None, capped, cap)
    if command.json:
        show_json({"out": plan.folder} | summary)
    else:
        pictures = (f"{count - failed} of " if failed else "") + len_of(count, "picture")
        show(f"{len_of(summary['detections'], 'detection')} in {pictures}: {plan.folder}")
    return 1 if failed else 0


def merge_only(command: Predict) -> int:
    """`headway predict --merge JOB`."""
    from ..jobs.plan import open_plan

    assert command.merge is not None
    if command.inputs:
        raise UsageError(f"--merge reads what {command.merge} holds; leave out {command.inputs[0]}")
    plan = open_plan(command.merge)
    if plan is None:
        raise HeadwayError(f"{command.merge} is no job: it holds no plan.json")
    return merge_job(command, plan)


def _work(command: Predict, plan: Plan, shards: list[int]) -> None:
    from ..jobs.runners import run_local
    from ..jobs.shard import Limits

    options: dict[str, Any] = {"device": command.device, "limits": Limits(command.time_limit)}
    options["plugins"] = loaded_plugins()
    with common.progress_bar("predicting") as progress:
        if command.ray is None:
            run_local(plan, shards, command.workers or 1, progress=progress, **options)
        else:
            from ..jobs.ray_runner import run_ray

            run_ray(plan, shards, command.ray, command.workers, progress=progress, **options)


def _settings(command: Predict, model: str | Path) -> Settings:
    from ..jobs import Settings

    if command.workers is not None and command.workers < 1:
        raise UsageError(f"--workers must be at least 1, got {command.workers}")
    if command.shard_size is not None and command.shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1, got {command.shard_size}")
    threads = command.threads if command.threads is not None else threads_of_environment()
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, got {threads}")
    if not command.time_limit > 0:
        raise UsageError(f"--time-limit must be more than 0 seconds, got {command.time_limit:g}")
    if command.pictures and command.no_pictures:
        raise UsageError("--pictures draws and --no-pictures does not: leave one out")
    if command.ray is not None and command.shard is not None:
        raise UsageError("--ray gives shards to its own workers; leave out --shard, or --ray")
    found = resolve_model(model)
    if is_exported(found.path):
        check_fixed(found.path, command.device, command.precision, nms_iou=(command.nms_iou, "card"))
    name = str(model if found.path is None else found.path.resolve())
    return Settings(
        name, _hash_of(found.path, name), command.threshold, command.max_detections, command.nms_iou, command.classes,
        command.batch_size, command.precision, threads, command.shard_size, pictures=command.pictures,
    )  # fmt: skip


def threads_of_environment() -> int:
    """OMP_NUM_THREADS, of a list its first number; 1 where it says nothing."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else 1


def _hash_of(path: Path | None, name: str) -> str:
    """sha256 of a file, and of the weights beside an OpenVINO one; a tag stands for its published weights."""
    if path is None:
        return name
    digests = []
    for file in (path, weights_of(path)) if path.suffix == ".xml" else (path,):
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return "-".join(digests)
