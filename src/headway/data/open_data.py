"""Whatever holds pictures and boxes, opened as what training and evaluation read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from .dataset import DetectionData, Record
from .formats.any_format import open_splits
from .sample import Sample


def open_data(
    source: Any, class_names: Sequence[str] | None = None, *, format: str | None = None
) -> dict[str, DetectionData]:
    """Splits by name, train, val and test first.

    source: the folder of a data set or a COCO file; an opened split; a map-style Dataset, or a list, of `Sample`s (the
        split is then called "all"); or a mapping from split names to any of these, each of one split.
    class_names: by label, of a Dataset that has no attribute `class_names` itself.
    format: "coco", "voc" or "yolo" of a folder, instead of recognising it.

    A Dataset is read through once, for sizes and boxes; pictures are not kept. While training it is read again, and
    may then give other pictures and boxes (augmented ones); a split to evaluate on must give the same every time.

    Raises: DataError for another kind of source, or a sample that is not as `Sample` says.
    """
    if isinstance(source, Mapping):
        return {str(name): _only_split(part, str(name), class_names, format) for name, part in source.items()}
    if isinstance(source, (str, Path, DetectionData)):
        opened = {source.name: source} if isinstance(source, DetectionData) else open_splits(source, format=format)
        for data in opened.values():
            if class_names is not None and tuple(class_names) != data.class_names:
                raise DataError(
                    f"{data.root} states its own classes, {list(data.class_names)[:10]}, got class_names="
                    f"{list(class_names)[:10]}; leave class_names out"
                )
        return opened
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise DataError(
            "data must be a folder, a COCO file, an opened split, a map-style Dataset (__len__ and __getitem__) of "
            f"headway Samples, or a mapping from split names to these, got {type(source).__name__}"
        )
    return {"all": _from_samples(source, "all", class_names or getattr(source, "class_names", None))}


def _only_split(source: Any, name: str, class_names: Sequence[str] | None, format: str | None) -> DetectionData:
    opened = open_data(source, class_names, format=format)
    if len(opened) != 1:
        raise DataError(
            f"expected one split as {name!r}, got {len(opened)} ({', '.join(opened)}); open it and pick one"
        )
    return replace(next(iter(opened.values())), name=name)


def _from_samples(dataset: Any, name: str, class_names: Sequence[str] | None) -> DetectionData:
    kind = type(dataset).__name__
    if class_names is None:
        raise DataError(f"{kind} states no classes: pass class_names=[...], by label")
    names = tuple(str(class_name) for class_name in class_names)
    if not len(dataset):
        raise DataError(f"{kind} holds no sample; expected at least one")
    records = [_record(dataset, index, f"{kind}[{index}]", len(names)) for index in range(len(dataset))]
    ids = tuple(range(1, len(names) + 1))
    return DetectionData(name, Path(kind), "samples", records, names, ids, "a Dataset of samples")


def _record(dataset: Any, index: int, where: str, num_classes: int) -> Record:
    sample = dataset[index]
    if not isinstance(sample, Sample):
        raise DataError(f"{where}: expected a headway Sample(image, boxes, labels), got {type(sample).__name__}")
    found, size = sample.to_tensors(where, decode=False)
    boxes, labels = found.boxes.numpy(), found.labels.numpy()
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(f"{where}: labels must be in 0..{num_classes - 1}, got {sorted(set(labels.tolist()))}")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    in_file = isinstance(sample.image, (str, Path))
    path = Path(sample.image) if in_file else Path(where)
    source = None if in_file else partial(dataset.__getitem__, index)
    return Record(index + 1, path, size, boxes, labels, found.crowd.numpy(), areas, source)
