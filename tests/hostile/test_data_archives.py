"""Archives made to do harm: nothing leaves them, nothing grows without bound, and each is one clear line."""

import gzip
import os
import random
import resource
import struct
import tarfile

import pytest

from lowland.data import DATASETS, load, verify
from tests.hostile.data_tools import refused, within

ARCHIVE = "cifar-10-binary.tar.gz"
MEMBERS = tuple(part.member for part in DATASETS["cifar-10"].parts)


def header(name, size=0, kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def entry(info, data=b""):
    """A member as it stands in a tar file."""
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


def raw(name, kind, size, body=b""):
    """A header of any type and size, with a checksum that fits."""
    block = bytearray(header(name, 0).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[156:157] = kind
    block[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % 512)


def pax(records, size=0):
    """A header of extended attributes before the next member."""
    lines = b""
    for key, value in records.items():
        line = b" %s=%s\n" % (key.encode(), value)
        length = len(line) + 1
        while length != len(str(length)) + len(line):
            length = len(str(length)) + len(line)
        lines += str(length).encode() + line
    return raw("x", b"x", size or len(lines), lines)


END = bytes(1024)


def write(small, tar):
    path = small.root / "cifar-10" / ARCHIVE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(tar, 1))
    return path


def whole(small):
    """All members as they should be."""
    return b"".join(entry(header(name, len(data)), data) for name, data in small.contents["cifar-10"].items())


def links(small, kind, to):
    data = small.contents["cifar-10"]
    first, *others = data
    return entry(header(first, 0, kind, linkname=to)) + b"".join(
        entry(header(name, len(data[name])), data[name]) for name in others
    )


#: What stands before a sound archive, and does no harm.
HARMLESS = {
    "path above": lambda s: entry(header("../outside", 3), b"out"),
    "absolute path": lambda s: entry(header("/tmp/lowland-outside", 3), b"out"),
    "link above": lambda s: (
        entry(header("link", 0, tarfile.SYMTYPE, linkname="../..")) + entry(header("link/x", 1), b"x")
    ),
    "device": lambda s: entry(header("device", 0, tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "fifo": lambda s: entry(header("pipe", 0, tarfile.FIFOTYPE)),
    "setuid": lambda s: entry(header("setuid", 1, mode=0o6777), b"x"),
    "long name": lambda s: entry(header("x/" * 5000, 1), b"x"),
    "name of other bytes": lambda s: entry(header("ÿþ", 1), b"x"),
    "times": lambda s: entry(header("old", 1, mtime=-1.0), b"x"),
}

#: What takes the place of a sound archive: its bytes, and what the line has to say.
HARMFUL = {
    "part is a symbolic link": lambda s: (links(s, tarfile.SYMTYPE, "/etc/passwd"), MEMBERS[0]),
    "part is a hard link": lambda s: (links(s, tarfile.LNKTYPE, MEMBERS[1]), MEMBERS[0]),
    "part is a hard link to itself": lambda s: (links(s, tarfile.LNKTYPE, MEMBERS[0]), MEMBERS[0]),
    "part is a device": lambda s: (links(s, tarfile.CHRTYPE, ""), MEMBERS[0]),
    "sparse by the old header": lambda s: (raw(MEMBERS[0], b"S", 0) + whole(s), "sparse"),
    "sparse of 2^40 bytes": lambda s: (
        pax({"GNU.sparse.major": b"0", "GNU.sparse.minor": b"1", "GNU.sparse.size": b"%d" % 2**40,
             "GNU.sparse.map": b"0,0"}) + entry(header(MEMBERS[0], 0)) + END, "more than all"),
    "sparse of no number": lambda s: (
        pax({"GNU.sparse.major": b"0", "GNU.sparse.size": b"many", "GNU.sparse.map": b"a,b"})
        + entry(header(MEMBERS[0], 0)) + END, ""),
    "sparse map of one number": lambda s: (
        pax({"GNU.sparse.size": b"9", "GNU.sparse.map": b"5"}) + entry(header(MEMBERS[0], 0)) + END, ""),
    "sparse map in the file, endless": lambda s: (
        pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"9"})
        + entry(header(MEMBERS[0], 512), b"999999999\n" + bytes(502)) + END, ""),
    "sparse map in the file, no numbers": lambda s: (
        pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"9"})
        + entry(header(MEMBERS[0], 512), b"two\n" * 128) + END, ""),
    "negative size": lambda s: (raw(MEMBERS[0], b"0", 0).replace(b"00000000000\0", b"\xff" * 12, 1) + whole(s), ""),
    "size of 2^62": lambda s: (raw(MEMBERS[0], b"0", 2**62) + whole(s), ""),
    "size in words": lambda s: (pax({"size": b"many"}) + whole(s) + END, ""),
    "size of 2^62 in words": lambda s: (pax({"size": b"%d" % 2**62}) + whole(s) + END, ""),
    "negative size in words": lambda s: (pax({"size": b"-512"}) + whole(s) + END, ""),
    "name of 2^40 bytes": lambda s: (raw("././@LongLink", b"L", 2**40, b"x" * 4096), "header"),
    "attributes of 2^40 bytes": lambda s: (raw("x", b"x", 2**40, b"x" * 4096), "header"),
    "global attributes of 2^40 bytes": lambda s: (raw("x", b"g", 2**40, b"x" * 4096), "header"),
    "attribute of no length": lambda s: (raw("x", b"x", 8, b"0 a=b\n\n\n") + whole(s), ""),
    "attribute longer than all": lambda s: (raw("x", b"x", 12, b"999999 a=b\n\n") + whole(s), None),
    "names without end": lambda s: (raw("././@LongLink", b"L", 4, b"abc\0") * 3000 + whole(s), ""),
    "attributes without end": lambda s: (raw("x", b"x", 6, b"6 a=b\n") * 3000 + whole(s), ""),
    "compressed twice": lambda s: (gzip.compress(whole(s)), ""),
    "a text": lambda s: (b"<html>not found</html>" * 1000, ""),
    "zeros": lambda s: (bytes(10**5), ""),
    "half": lambda s: (whole(s)[: len(whole(s)) // 2], ""),
    "every part again and again": lambda s: (whole(s) * 400, "too large"),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_what_stands_beside_the_parts_is_passed_over(small, what, tmp_path):
    write(small, HARMLESS[what](small) + whole(small) + END)
    before = sorted(tmp_path.rglob("*"))
    with within(10):
        assert len(load("cifar-10").train) == 20
        assert verify("cifar-10") == []
    assert sorted(tmp_path.rglob("*")) == before
    assert not os.path.exists("/tmp/lowland-outside")


@pytest.mark.parametrize("what", HARMFUL)
def test_an_archive_that_does_harm(small, what, tmp_path):
    tar, says = HARMFUL[what](small)
    path = write(small, tar)
    before = sorted(tmp_path.rglob("*"))
    if says is None:  # an attribute that means nothing is nothing
        load("cifar-10")
    else:
        refused(lambda: load("cifar-10"), str(path), says)
        with within(10):
            assert verify("cifar-10")
    assert sorted(tmp_path.rglob("*")) == before


def growth(call):
    """Bytes by which the most memory that this process ever had grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def compressed_zeros(head, gigabytes):
    """``head`` and so many 10^9 zeros, compressed without being held: gzip files one after another are one."""
    return gzip.compress(head) + int(100 * gigabytes) * gzip.compress(bytes(10**7))


BOMBS = {
    "behind the parts": lambda s: whole(s) + END,
    "a member": lambda s: raw("big", b"0", 10**9),
    "a name": lambda s: raw("././@LongLink", b"L", 10**9),
    "attributes": lambda s: raw("x", b"x", 10**9),
    "a part": lambda s: raw(MEMBERS[0], b"0", 10**9),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_not_unpacked(small, what):
    """A gigabyte of zeros is a megabyte of file, and no more than a little of it is ever read."""
    path = write(small, b"")
    path.write_bytes(compressed_zeros(BOMBS[what](small), 1))
    assert growth(lambda: refused(lambda: load("cifar-10"), str(path), seconds=2)) < 10**8


def test_a_gzip_header_of_gigabytes(small):
    """A name without end stands before the compressed bytes."""
    path = small.root / "mnist" / "train-images-idx3-ubyte.gz"
    small.write("mnist", packed=True)
    with open(path, "wb") as file:
        file.write(b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 100)
        file.seek(100)
        file.write(b"a" * 10**6)
        file.truncate(3 * 2**30)
    refused(lambda: load("mnist"), str(path), "too large", seconds=2)


@pytest.mark.parametrize("shape", [(2**31,), (2**32 - 1, 28, 28), (2**31, 28, 28), (0, 28, 28), (12, 2**31, 2**31)])
def test_an_idx_header_that_promises_much(small, shape):
    folder = small.write("mnist")
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(1000))
    refused(lambda: load("mnist"), str(path))


def test_an_idx_header_of_255_dimensions(small):
    path = small.write("mnist") / "train-images-idx3-ubyte"
    path.write_bytes(bytes((0, 0, 8, 255)) + struct.pack(">255I", *[2**32 - 1] * 255))
    refused(lambda: load("mnist"), str(path))


def spoiled(data, rng):
    """``data`` with a few bytes changed, cut out, doubled or zeroed."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, many = rng.randrange(len(data)), rng.choice((1, 1, 1, 4, 64, 512))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + many]
            case 2:
                data[at:at] = data[at : at + many]
            case 3:
                data[at : at + many] = bytes(len(data[at : at + many]))
            case 4:
                data[at : at + many] = rng.randbytes(len(data[at : at + many]))
        if not data:
            break
    return bytes(data)


def fuzz(small, count, seed):
    """Damaged tar files in sound gzip files, damaged gzip files, damaged idx files: whole data or one line."""
    rng = random.Random(seed)
    tar = whole(small) + END
    packed = gzip.compress(tar, 1)
    first = entry(header("x/" * 200, 10), b"x" * 10) + tar  # with a long name and attributes
    arrays = small.contents["mnist"]
    mnist = small.write("mnist")
    path = write(small, tar)
    outcomes = {"whole": 0, "refused": 0}
    for number in range(count):
        with within(10):
            kind = number % 4
            if kind == 0:
                path.write_bytes(gzip.compress(spoiled(first[:8192], rng) + first[8192:], 1))
            elif kind == 1:
                path.write_bytes(spoiled(packed[:100], rng) + packed[100:])
            elif kind == 2:
                path.write_bytes(gzip.compress(spoiled(tar, rng), 1))
            else:
                file = rng.choice(sorted(arrays))
                (mnist / file).write_bytes(spoiled(arrays[file][:24], rng) + arrays[file][24:])
            problems = verify("mnist" if kind == 3 else "cifar-10")
            assert all("\n" not in problem for problem in problems)
            outcomes["refused" if problems else "whole"] += 1
            if kind == 3:
                (mnist / file).write_bytes(arrays[file])
    return outcomes


def test_damage_at_random(small, count):
    outcomes = fuzz(small, 80, 0)
    count("data files spoiled at random", 80)
    assert outcomes["refused"] > 40


@pytest.mark.hostile
@pytest.mark.parametrize("seed", range(1, 11))
def test_much_damage_at_random(small, seed, count):
    count("data files spoiled at random", 500)
    assert fuzz(small, 500, seed)["refused"] > 250
