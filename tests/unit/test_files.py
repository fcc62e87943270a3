"""New folders, and those that cannot be made."""

from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.files import claim_folder, new_folder


@pytest.mark.parametrize("make", [claim_folder, new_folder])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("file/out", "Not a directory|File exists"), ("x" * 300, "File name too long"), ("a\0b", "null")],
    ids=["below a file", "too long", "no name"],
)
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, make, name: str, reason: str):
    """Failed before: an error of Python's own."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadwayError, match=f"^the folder .* cannot be made: .*({reason}).*; name another with --out"):
        make(tmp_path / name)


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert claim_folder(tmp_path / "out") == new_folder(tmp_path / "out") == tmp_path / "out"
    (tmp_path / "out" / "a").write_text("kept")
    assert new_folder(tmp_path / "out").name == "out-2"
    for taken, what in (("out", "exists and is not empty"), ("out/a", "is a file")):
        with pytest.raises(HeadwayError, match=f"{what}; nothing is overwritten"):
            claim_folder(tmp_path / taken)
    assert (tmp_path / "out" / "a").read_text() == "kept"
