"""Cut the demo's data set out of BCCD (MIT): so many images of its train split, so many of its val split.

python tools/make_demo_data.py BCCD_FOLDER src/headway/assets/bccd-mini
"""

import argparse
import json
import shutil
from pathlib import Path


def cut(source: Path, target: Path, split: str, count: int) -> tuple[int, int]:
    """Every n-th image by name, their annotations, and the files' bytes unchanged."""
    content = json.loads((source / "annotations" / f"{split}.json").read_text())
    images = sorted(content["images"], key=lambda image: image["file_name"])
    images = [images[i * len(images) // count] for i in range(count)]
    kept = {image["id"] for image in images}
    annotations = [
        {key: a[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}
        for a in content["annotations"]
        if a["image_id"] in kept
    ]
    images = [{key: image[key] for key in ("id", "file_name", "width", "height")} for image in images]
    (target / split).mkdir(parents=True, exist_ok=True)
    for image in images:
        shutil.copyfile(source / split / image["file_name"], target / split / image["file_name"])
    (target / "annotations").mkdir(exist_ok=True)
    categories = [{"id": c["id"], "name": c["name"]} for c in content["categories"]]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories}, separators=(",", ":"))
    (target / "annotations" / f"{split}.json").write_text(text + "\n")
    return len(images), len(annotations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, default=64)
    parser.add_argument("--val", type=int, default=20)
    arguments = parser.parse_args()
    for split in ("train", "val"):
        print(split, cut(arguments.source, arguments.target, split, getattr(arguments, split)))
    shutil.copyfile(arguments.source / "LICENSE", arguments.target / "LICENSE")


if __name__ == "__main__":
    main()
