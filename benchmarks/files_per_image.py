"""How many of the library's files run for one image, from pixels to detections.

    python benchmarks/files_per_image.py

Counts the files of `headway` in which at least one Python line runs during `Detector.detect`, after a first call (which
imports, and folds the batch norms once).
"""

import json
import sys
from pathlib import Path

import torch

import headway

RESULTS = Path(__file__).parent / "results"
ROOT = Path(headway.__file__).parent
LIMITS = {"atss_r50_fpn": 9, "atss_r50_fpn_dyhead": 10, "retinanet_r50_fpn": 9, "fcos_r50_fpn": 9}


def files_run(name: str, size: tuple[int, int] = (256, 320)) -> list[str]:
    """The library files that run for one image through the model `name`, sorted."""
    model = headway.create_model(name).eval()
    images = torch.rand(1, 3, *size)
    model.detect(images)
    seen: set[str] = set()
    sys.setprofile(lambda frame, event, _: seen.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        model.detect(images)
    finally:
        sys.setprofile(None)
    return sorted(str(Path(f).relative_to(ROOT)) for f in seen if Path(f).is_relative_to(ROOT))


def main() -> None:
    table = {name: files_run(name) for name in LIMITS}
    for name, files in table.items():
        print(f"{name}: {len(files)} files (at most {LIMITS[name]}): {', '.join(files)}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "files_per_image.json").write_text(json.dumps(table, indent=1) + "\n")
    sys.exit(any(len(files) > LIMITS[name] for name, files in table.items()))


if __name__ == "__main__":
    main()
