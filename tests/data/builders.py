"""Small data sets in the three formats, with pictures made on the spot, for the tests to spoil."""

import json
import shutil
from pathlib import Path

from PIL import Image

SAMPLE = Path(__file__).parent / "fixtures" / "bccd-sample"  # annotations of 20 BCCD pictures in three formats
NAMES = ("cat", "dog")
SIZE = (64, 48)  # width, height

# xyxy boxes and labels of three pictures; the third has none
TRUTH = {
    "a.jpg": [((4, 6, 24, 30), 0), ((30, 8, 60, 40), 1)],
    "b.jpg": [((10, 10, 20, 22), 1)],
    "c.jpg": [],
}


def picture(path, number=0, size=SIZE, **options):
    """A picture of one colour, another for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40 * number % 256, 255 - 7 * number % 256, 90)).save(path, **options)


def pictures(folder, names=tuple(TRUTH), first=0):
    for number, name in enumerate(names):
        picture(folder / name, first + number)


def coco_content():
    images = [{"id": i + 1, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(TRUTH)]
    annotations = []
    for image in images:
        for (x1, y1, x2, y2), label in TRUTH[image["file_name"]]:
            row = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label + 1}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append(row)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def dump(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def coco(folder, content=None, split="train"):
    pictures(folder / split)
    dump(folder / "annotations" / f"{split}.json", coco_content() if content is None else content)
    return folder


def xml(name, boxes, size=SIZE, filename=None):
    objects = "".join(
        f"<object><name>{NAMES[label]}</name><pose>Left</pose><difficult>1</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return (
        f"<annotation><filename>{filename or name}</filename><path>/home/someone/{name}</path>{stated}{objects}"
        "</annotation>"
    )


def voc(folder, images="JPEGImages", annotations="Annotations"):
    pictures(folder / images)
    (folder / annotations).mkdir(parents=True, exist_ok=True)
    for name, boxes in TRUTH.items():
        (folder / annotations / name.replace(".jpg", ".xml")).write_text(xml(name, boxes))
    return folder


def rows(boxes, size=SIZE):
    width, height = size
    return "".join(
        f"{label} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} {(x2 - x1) / width:.8f} "
        f"{(y2 - y1) / height:.8f}\n"
        for (x1, y1, x2, y2), label in boxes
    )


def yolo(folder, images="images/train", labels="labels/train", yaml="train: images/train\nnames: [cat, dog]\n"):
    pictures(folder / images)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    for name, boxes in TRUTH.items():
        if boxes:
            (folder / labels / name.replace(".jpg", ".txt")).write_text(rows(boxes))
    if yaml:
        (folder / "data.yaml").write_text(yaml)
    return folder


BUILDERS = {"coco": coco, "voc": voc, "yolo": yolo}


def bccd(folder, format):
    """The sample of 20 pictures in one format; the pictures are stand-ins of the real size."""
    for split in ("train", "val"):
        stems = (SAMPLE / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        base = {"coco": split, "voc": "JPEGImages", "yolo": f"images/{split}"}[format]
        for number, stem in enumerate(stems):
            picture(folder / base / f"{stem}.jpg", number + 20 * (split == "val"), (640, 480))
        if format == "coco":
            (folder / "annotations").mkdir(exist_ok=True)
            shutil.copyfile(SAMPLE / "coco" / f"{split}.json", folder / "annotations" / f"{split}.json")
    if format == "voc":
        shutil.copytree(SAMPLE / "Annotations", folder / "Annotations")
        shutil.copytree(SAMPLE / "ImageSets", folder / "ImageSets")
    if format == "yolo":
        shutil.copytree(SAMPLE / "labels", folder / "labels")
        shutil.copyfile(SAMPLE / "data.yaml", folder / "data.yaml")
    return folder


def truth(data):
    """Per picture: (box, class name) as in TRUTH, sorted."""
    return {
        record.path.name: sorted(
            (tuple(round(v, 3) for v in box), data.class_names[label])
            for box, label in zip(record.boxes.tolist(), record.labels.tolist())
        )
        for record in data.records
    }


EXPECTED = {name: sorted((box, NAMES[label]) for box, label in boxes) for name, boxes in TRUTH.items()}
