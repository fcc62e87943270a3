"""Files of tools that are not read are named, with what to do; Git LFS pointers too."""

import json

import builders as make
import pytest
from PIL import Image

from headway.data.formats.any_format import find_dataset, open_splits
from headway.data.image import image_size
from headway.errors import DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"
FILES = {
    "Labelbox": ("export.json", json.dumps([{"ID": "a", "Labeled Data": "x.jpg", "Label": {}}])),
    "FiftyOne": ("samples.json", json.dumps({"samples": []})),
    "FiftyOne's own": ("labels.json", json.dumps({"classes": ["a"], "labels": {}})),
    "CreateML": ("_annotations.createml.json", json.dumps([{"image": "a.jpg", "annotations": []}])),
    "CreateML JSON": ("a.json", json.dumps([{"imagefilename": "a.jpg", "annotation": []}])),
    "VoTT": ("a-asset.json", json.dumps({"asset": {}, "regions": [], "version": "2"})),
    "SuperAnnotate": ("a.jpg___objects.json", json.dumps({"metadata": {}, "instances": []})),
    "MMDetection 3": ("train.json", json.dumps({"metainfo": {}, "data_list": []})),
    "BDD100K": ("det.json", json.dumps([{"name": "a.jpg", "labels": []}])),
    "Hasty": ("hasty.json", json.dumps({"project_name": "p", "images": [], "label_classes": []})),
    "Hugging Face": ("metadata.jsonl", '{"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]]}}\n'),
    "Ground Truth": ("output.manifest", '{"source-ref": "s3://b/a.jpg", "boxes": {}}\n'),
    "SageMaker": ("train.jsonl", '{"source-ref": "s3://b/a.jpg", "boxes": {}}\n'),
    "KITTI": ("000000.txt", "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"),
    "DOTA": ("P0.txt", "100.0 100.0 200.0 100.0 200.0 150.0 100.0 150.0 plane 0\n"),
    "MOT": ("gt.txt", "1,1,912,484,97,109,0,7,1\n"),
    "VisDrone": ("0000001_02999_d_0000005.txt", "684,8,273,116,0,0,0,0\n"),
    "Keras": ("_annotations.txt", "a.jpg 1,2,30,40,0 5,5,9,9,1\n"),
    "WIDER": ("wider_face_train_bbx_gt.txt", "0--Parade/0_Parade_marchingband_1_849.jpg\n1\n449 330 122 149 0 0\n"),
    "dlib": ("training.xml", "<?xml version='1.0'?><dataset><images><image file='a.jpg'></image></images></dataset>"),
    "unpack it": ("data.zip", "PK"),
    "Parquet": ("train.parquet", "PAR1"),
}


@pytest.mark.parametrize("tool", FILES)
def test_the_tool_is_named_and_what_to_do(tmp_path, tool):
    name, text = FILES[tool]
    (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / name) if tool != "unpack it" else (tmp_path,):
        with pytest.raises(DataError, match=tool) as caught:
            find_dataset(path)
        assert ";" in str(caught.value)
        assert str(caught.value).count("\n") == 0


def test_pictures_without_annotations_are_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 pictures and no annotations"):
        find_dataset(tmp_path)


def test_git_lfs_pointers_are_told(tmp_path):
    (tmp_path / "a.jpg").write_text(POINTER)
    with pytest.raises(DataError, match="Git LFS pointer in place of the file; fetch it: git lfs pull"):
        image_size(tmp_path / "a.jpg")
    for format, file in (("coco", "annotations/train.json"), ("voc", "Annotations/b.xml"),
                         ("yolo", "labels/train/b.txt")):  # fmt: skip
        folder = make.BUILDERS[format](tmp_path / format)
        (folder / file).write_text(POINTER)
        with pytest.raises(DataError, match="git lfs pull"):
            open_splits(folder, format=format)
