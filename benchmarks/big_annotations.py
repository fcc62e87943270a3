"""A file in the form of Objects365's: how long it takes to open, what memory that takes, and what a worker copies.

python benchmarks/big_annotations.py write FOLDER     # 2 million pictures (empty files) and 10 million boxes
python benchmarks/big_annotations.py open FOLDER      # opening it, and what a training does before its first step
python benchmarks/big_annotations.py workers FOLDER   # memory of DataLoader workers, forked and spawned
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from headway.data.columns import Columns
from headway.data.dataset import DetectionData
from headway.data.formats.any_format import open_splits
from headway.data.sampler import GroupedBatchSampler
from headway.process import peak_of_process
from headway.train.state import describe_data

CLASSES = 365
PATCH = 40_000  # pictures of a folder, as patch0, patch1 ...
_FIELDS = ("Rss", "Pss", "Anonymous", "Private_Dirty")


def write(folder: Path, pictures: int, boxes: int) -> None:
    """The boxes of a picture lie apart in the file, as where annotators worked side by side. Goes on with the pictures
    that are there."""
    random = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for patch in range(-(-pictures // PATCH)):
        (folder / f"train/patch{patch}").mkdir(parents=True, exist_ok=True)
    with (folder / "annotations/train.json").open("w") as stream:
        stream.write('{"images": [')
        for i in range(pictures):
            name = f"patch{i // PATCH}/objects365_v2_{i:08d}.jpg"
            with suppress(FileExistsError):
                os.mknod(f"{folder}/train/{name}")
            entry = f'"file_name": "{name}", "height": {480 + i % 300}, "width": 640, "license": 5'
            stream.write(f'{", " if i else ""}{{"id": {i + 1}, {entry}}}')
        stream.write('], "annotations": [')
        forms = [_form(*row) for row in random.uniform(0, 300, (50_000, 4)).round(4).tolist()]
        for first in range(0, boxes, 1_000_000):
            owners = random.integers(1, pictures + 1, min(1_000_000, boxes - first)).tolist()
            for i, image in enumerate(owners, first):
                head = f'{", " if i else ""}{{"id": {i + 1}, "category_id": {i % CLASSES + 1}, "image_id": {image}'
                stream.write(head + forms[i % len(forms)])
        names = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
        stream.write(f'], "categories": {json.dumps(names)}}}')
    print(f"{(folder / 'annotations/train.json').stat().st_size / 2**20:.0f} MiB")


def _form(x: float, y: float, width: float, height: float) -> str:
    """What Objects365 says of a box besides its numbers."""
    marks = '"iscrowd": 0, "isfake": 0, "isreflected": 0'
    return f', "bbox": [{x}, {y}, {width + 1:.4f}, {height + 1:.4f}], "area": {width * height:.4f}, {marks}}}'


def memory(fields: tuple[str, ...] = _FIELDS) -> dict[str, int]:
    """MiB of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.endswith("kB")}
    return {field: found[field] for field in fields}


class Watch:
    """The most memory of this process that is in no file, looked at every 20 ms."""

    def __init__(self) -> None:
        self.most, self._over = 0, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            self.most = max(self.most, int(status.partition("RssAnon:")[2].split()[0]) // 1024)


def step(name: str, call: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    print(f"{name}: {time.perf_counter() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s", flush=True)
    return found


def opened(folder: Path) -> DetectionData:
    data = open_splits(folder)["train"]
    assert isinstance(data.records, Columns), "it was read entry by entry"
    return data


def measure_open(folder: Path) -> None:
    print(f"before: {memory()}, {len(gc.get_objects())} objects")
    watch = Watch()
    data = step("open", lambda: opened(folder))
    print(f"{len(data)} pictures, {data.num_boxes} boxes")
    print(f"peak {peak_of_process() / 2**20:.0f} MiB, in no file {watch.most}")
    gc.collect()
    print(f"after: {memory()}, {len(gc.get_objects())} objects", flush=True)
    step("card fields", data.card_fields)
    sampler = step("sampler", lambda: GroupedBatchSampler(data, 16))
    step("order of an epoch", sampler.global_batches)
    step("without empty pictures", lambda: data.subset(np.flatnonzero(data.box_counts()).tolist(), "train"))
    step("digest for resuming", lambda: describe_data(data))
    print(f"at the end: peak {peak_of_process() / 2**20:.0f} MiB, in no file {watch.most}")


class Boxes(Dataset[Any]):
    """Gives the boxes of pictures, which are not read, and at the end the memory of the worker."""

    def __init__(self, data: DetectionData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        if index < 0:
            return os.getpid(), memory()
        return int(self.data.records[index].boxes.sum())


def measure_workers(folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    data = opened(folder)
    print(f"first process: {memory()}")
    few = np.random.default_rng(0).permutation(len(data))[:200_000].tolist()
    keys = [few[i : i + 1000] for i in range(0, len(few), 1000)] + [[-1]] * count
    tiny = DetectionData("train", data.root, "coco", [], data.class_names, data.category_ids)
    for method in ("fork", "spawn"):
        for name, part, batches in (("without data", tiny, [[-1]] * count), ("with data", data, keys)):
            loader = DataLoader(
                Boxes(part), batch_sampler=batches, num_workers=count, collate_fn=list, multiprocessing_context=method
            )
            start = time.perf_counter()
            iterator = iter(loader)
            begun = time.perf_counter() - start
            seen = dict(items[0] for items in iterator if isinstance(items[0], tuple))
            print(f"{method}, {name}: {count} workers started in {begun:.1f} s", flush=True)
            for found in seen.values():
                print(f"  worker: {found}")
            print(f"  first process: {memory()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "open", "workers"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=2_000_000)
    parser.add_argument("--boxes", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(arguments.folder, arguments.pictures, arguments.boxes)
    elif arguments.what == "open":
        measure_open(arguments.folder)
    else:
        measure_workers(arguments.folder, arguments.workers)


if __name__ == "__main__":
    main()
