"""What can be wrong with a data set: one row per kind, with what the readers and `fix` do about it."""

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of problem. fix: what `headway data check --fix` does about it.

    severity: "error" where training is refused or would stop, "warning" where it goes on with something dropped,
    changed or doubtful, "info" for what is legitimate but good to know.
    refused: the readers raise on it; what is not refused and still an error shows only when the picture is decoded.
    """

    severity: str
    meaning: str
    fix: str
    refused: bool = False


KINDS: dict[str, Kind] = {
    "boxes_lost": Kind("error", "boxes lost to one cause", "left out; refused where a split loses all", True),
    "boxless_set": Kind("error", "no box in the whole data set", "not done: annotate it, or export it again", True),
    "no_labels": Kind("error", "most pictures have no annotation file", "kept as pictures without boxes", True),
    "path_escape": Kind("error", "file name or link that leaves the data folder", "entry left out", True),
    "unreadable_annotation": Kind("error", "annotation that cannot be parsed", "entry left out", True),
    "two_readings": Kind(
        "error", "rows that fit two readings, polygons and poses", "not done: state kpt_shape or export boxes", True
    ),
    "empty_file": Kind("error", "annotation file of 0 bytes", "entry left out", True),
    "no_images": Kind("error", "split that lists no image", "split left out", True),
    "missing_image": Kind("error", "annotated image that does not exist", "entry left out", True),
    "ambiguous_image": Kind("error", "image name that several folders have", "entry left out", True),
    "empty_image": Kind("error", "image file of 0 bytes", "image left out"),
    "broken_image": Kind("error", "image that cannot be decoded", "image left out"),
    "wrong_size": Kind(
        "error",
        "stated size differs from the picture's",
        "boxes turned (EXIF) or scaled where the sizes explain it, else the image left out",
    ),
    "turned_picture": Kind(
        "warning", "picture that EXIF turns, boxes taken as drawn on the upright one; look at some", "kept"
    ),
    "missing_size": Kind("warning", "no size stated; read from the picture", "size filled in"),
    "unknown_category": Kind("error", "box of a class that is not declared", "box left out", True),
    "duplicate_category": Kind(
        "error", "class declared twice", "classes of one name merged, of one id the first kept", True
    ),
    "unnamed_class": Kind("error", "class without a name", "named by its id", True),
    "split_mismatch": Kind("error", "splits that do not share their classes", "not done: rename the classes", True),
    "duplicate_image_id": Kind("error", "image id used twice", "kept once; left out if the files differ", True),
    "unknown_image": Kind("warning", "annotation of an image that is not listed", "annotation left out"),
    "duplicate_annotation_id": Kind("warning", "annotation id used twice", "annotations numbered anew"),
    "duplicate_entry": Kind("warning", "image listed twice", "entries joined"),
    "duplicate_image": Kind("warning", "image with the very bytes of another in its split", "first one kept"),
    "duplicate_box": Kind("warning", "box that repeats another of its image", "first one kept"),
    "box_malformed": Kind("warning", "box that is not four numbers", "box left out"),
    "box_not_finite": Kind("warning", "box with NaN or infinite values", "box left out"),
    "box_inverted": Kind("warning", "box with its corners swapped; put in order", "corners put in order"),
    "box_empty": Kind("warning", "box of zero area", "box left out"),
    "box_off_image": Kind("warning", "box wholly outside its image", "box left out"),
    "box_outside": Kind("warning", "box that reaches outside its image", "box clipped"),
    "no_split": Kind("warning", "pictures, or lists of them, that are in no split", "left out"),
    "similar_classes": Kind("warning", "class names that differ only by case", "kept: rename them if they are one"),
    "orphan_label": Kind("warning", "label file without an image", "file left out"),
    "other_filename": Kind(
        "warning", "XML that states another picture than the one of its own name, which is taken", "name corrected"
    ),
    "shared_label": Kind("warning", "label file of two pictures; both get its boxes", "written for each"),
    "other_name": Kind("info", "picture found under another name than the stated one", "name corrected"),
    "id_type": Kind("info", "ids of another type than those they refer to; matched all the same", "written as numbers"),
    "class_name": Kind("info", "class name with line breaks or control characters; read as spaces", "written so"),
    "corner_box": Kind("info", "corners in place of width and height; read as corners", "written as width and height"),
    "enclosing_box": Kind("info", "polygon, mask or rotated box; its enclosing box is read", "written as box"),
    "pose_row": Kind(
        "info", "rows with key points, though no kpt_shape is stated; their boxes are read", "written as boxes"
    ),
    "class_numbers": Kind("info", "class numbers with gaps or not from 0; read as they stand", "numbered anew"),
    "repeated_class": Kind("info", "class that no box uses and whose name another class has; left out", "left out"),
    "encoding": Kind("info", "text that is not UTF-8", "written as UTF-8"),
    "leakage": Kind("info", "image that is in two splits, by its bytes or its name", "not done: decide which keeps it"),
    "no_label_file": Kind("info", "image without an annotation file; trained on as background", "kept"),
    "no_boxes": Kind("info", "image without boxes; trained on as background", "kept"),
    "crowd": Kind("info", "crowd region; neither object nor background in training", "kept"),
    "unused_class": Kind("info", "class without a box in the split", "kept"),
}


class Problem(NamedTuple):
    """where: file, and entry, line or object in it; detail: what was found there."""

    kind: str
    where: str
    detail: str

    @property
    def severity(self) -> str:
        return KINDS[self.kind].severity

    def __str__(self) -> str:
        return f"{KINDS[self.kind].meaning}: {self.where}: {self.detail}"
