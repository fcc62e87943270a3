"""Whether the pictures of a data set are as its annotations say, before it is drawn or written anew."""

from collections.abc import Mapping

from ...errors import DataError
from ..dataset import DetectionData


def check_pictures(splits: Mapping[str, DetectionData]) -> None:
    """Read the header of every picture.

    Raises: DataError for a picture that is broken, has another size than is stated, so that its boxes lie elsewhere, or
    a name that no annotation file could hold.
    """
    for data in splits.values():
        wrong = []
        for record in data.records:
            if record.source is not None:
                continue
            _check_name(str(record.path))
            size, _ = record.header()
            if record.size not in (None, size):
                wrong.append((record, size))
        if wrong:
            record, (height, width) = wrong[0]
            assert record.size is not None
            others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise DataError(
                f"{record.path} is {width}x{height}, stated {record.size[1]}x{record.size[0]}{others}, so its boxes "
                f"are not where the objects are; `headway data check {data.root} --fix` writes a copy that fits"
            )


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="surrogateescape").decode("latin-1")
        raise DataError(
            f"the file name {shown!r} is not UTF-8, as an old zip leaves it; rename it first (convmv -f latin1 -t utf8)"
        ) from None
