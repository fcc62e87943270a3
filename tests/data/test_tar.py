"""Tar files member by member, as `tarfile` reads them; and what is no plain tar file refused in one line."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from headway.data.tar import InTar, members_of
from headway.errors import DataError

LONG = "folder/" + "long name ü " * 20 + ".jpg"


def write_tar(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    names = ["a.jpg", "./b/c.json", "d" * 90 + "/" + "e" * 60 + ".jpg"]
    names += [] if form == tarfile.USTAR_FORMAT else [LONG]
    files = {name: bytes([number]) * (700 * number) for number, name in enumerate(names)}
    shard = write_tar(tmp_path / "a.tar", files, form)
    with tarfile.open(shard) as tar:
        expected = [(info.name.removeprefix("./"), info.offset_data, info.size) for info in tar]
    found = [*members_of(shard)]
    assert [tuple(member) for member in found] == expected
    for member, content in zip(found, files.values()):
        assert InTar(str(shard), member.offset, member.size)() == content
        assert InTar(str(shard), member.offset, member.size).head(3) == content[:3]


def test_folders_are_passed_over_and_binary_sizes_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("folder")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    assert [*members_of(tmp_path / "a.tar")] == []
    content = bytearray(write_tar(tmp_path / "b.tar", {"a.jpg": b"x" * 5}, tarfile.USTAR_FORMAT).read_bytes())
    content[124:136] = b"\x80" + (5).to_bytes(11, "big")
    _mend_checksum(content)
    (tmp_path / "b.tar").write_bytes(content)
    assert [member.size for member in members_of(tmp_path / "b.tar")] == [5]


def _mend_checksum(content: bytearray) -> None:
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])


def special(kind: bytes, target: str = "") -> bytes:
    """A tar file of one entry of this type."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return stream.getvalue()


def named(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return stream.getvalue()


def sized(field: bytes) -> bytes:
    """A member that states a size which is not its own."""
    content = bytearray(named("a.jpg"))
    content[124:136] = field
    _mend_checksum(content)
    return bytes(content)


def pax(record: bytes, kind: bytes = b"x") -> bytes:
    """A member behind an extended header with this content."""
    header = bytearray(named("h")[:512])
    header[156:157], header[124:136] = kind, b"%011o\0" % len(record)
    _mend_checksum(header)
    return bytes(header) + record.ljust(-(-len(record) // 512) * 512, b"\0") + named("a.jpg")


PLAIN = named("a.jpg")
HOSTILE = {
    "a name that leads out": (named("../../etc/passwd.jpg"), "a name that leads out of the archive"),
    "an absolute name": (named("/etc/a.jpg"), "a name that leads out of the archive"),
    "a drive": (named("C:a.jpg"), "a name that leads out of the archive"),
    "backslashes": (named("..\\a.jpg"), "a name that leads out of the archive"),
    "a symbolic link": (special(tarfile.SYMTYPE, "/etc/passwd"), "holds a link, 'a.jpg'"),
    "a hard link": (special(tarfile.LNKTYPE, "/etc/passwd"), "holds a link, 'a.jpg'"),
    "a device": (special(tarfile.CHRTYPE), "holds a device, 'a.jpg'"),
    "a pipe": (special(tarfile.FIFOTYPE), "holds a pipe, 'a.jpg'"),
    "holes": (special(tarfile.GNUTYPE_SPARSE), "holds a file with holes, 'a.jpg'"),
    "a type of its own": (special(b"Z"), "holds an entry of type b'Z', 'a.jpg'"),
    "8 GiB": (sized(b"77777777777\0"), "states 8,589,934,591 bytes, and 9,728 are left"),
    "a binary size": (sized(b"\x80" + b"\0" * 3 + b"\xff" * 8), "states 18,446,744,073,709,551,615 bytes"),
    "a negative size": (sized(b"\xff" * 12), "the header at byte 0 states the size"),
    "a size of letters": (sized(b"0000000000z\0"), "the header at byte 0 states the size"),
    "cut in a member": (PLAIN[:514], "states 3 bytes, and 2 are left"),
    "cut in a header": (PLAIN[:100], "ends without the two empty blocks"),
    "cut behind a member": (PLAIN[:1024], "ends without the two empty blocks"),
    "one empty block": (PLAIN[:1536], "ends without the two empty blocks"),
    "a wrong checksum": (PLAIN[:3] + b"X" + PLAIN[4:], "the header at byte 0 has another checksum"),
    "two tar files": (PLAIN[:2048] + PLAIN, "goes on behind its end at byte 1024"),
    "nothing": (b"", "is empty (0 bytes)"),
    "a text": (b"no tar file, but long enough to be one " * 20, "is no tar file in POSIX or GNU form"),
    "gzip": (gzip.compress(PLAIN), "is compressed (gzip)"),
    "pax that is none": (pax(b"hello world"), "has no pax records"),
    "pax of length 0": (pax(b"0 a=b\n"), "has no pax records"),
    "pax with a size of letters": (pax(b"12 size=-12\n"), "states the size '-12'"),
    "pax with a size of other digits": (pax("11 size=²\n".encode()), "states the size '\\xb2'"),
    "pax with a size of 5000 digits": (pax(b"5011 size=" + b"9" * 5000 + b"\n"), "states the size '999"),
    "pax with a name": (pax(b"20 path=../../a.jpg\n"), "a name that leads out of the archive"),
    "pax for all members": (pax(b"14 path=a.jpg\n", b"g"), "an extended header 'path'"),
    "pax with holes": (pax(b"22 GNU.sparse.major=1\n"), "an extended header 'GNU.sparse.major'"),
    "a long name of 1 GiB": (pax(b"", b"L")[:124] + b"10000000000\0" + pax(b"", b"L")[136:], "checksum"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_plain_tar_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    content, message = HOSTILE[kind]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError) as error:
        [*members_of(tmp_path / "a.tar")]
    text = str(error.value)
    assert message in text, text
    assert text.startswith(f"tar shard {tmp_path / 'a.tar'} ")
    assert "\n" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]  # nothing is ever written


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    header = bytearray(named("h")[:512])
    header[156:157], header[124:136] = b"L", b"10000000000\0"
    _mend_checksum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + PLAIN)
    with pytest.raises(DataError, match="the extended header at byte 0 states 1,073,741,824 bytes"):
        [*members_of(tmp_path / "a.tar")]


def test_a_shard_that_shrinks_or_goes_is_told(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 600})
    member = next(members_of(shard))
    content = InTar(str(shard), member.offset, member.size)
    shard.write_bytes(shard.read_bytes()[: member.offset + 10])
    with pytest.raises(DataError, match="is shorter than when it was opened"):
        content()
    with pytest.raises(DataError, match=r"b.tar cannot be read: No such file"):
        content._replace(shard=str(tmp_path / "b.tar"))()
