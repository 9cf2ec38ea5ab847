"""Small datasets in the publishers' formats: a few examples each, drawn at random, written where asked."""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lowland.data.registry import DATASETS

COUNTS = {"mnist": (12, 5), "fashion-mnist": (12, 5), "cifar-10": (20, 4), "cifar-100": (8, 4)}


def idx_file(array: np.ndarray, dtype: int = 0x08) -> bytes:
    return bytes((0, 0, dtype, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar_gz(members: dict[str, bytes | None]) -> bytes:
    """An archive of ``members``; None makes a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data or b""))
    return gzip.compress(buffer.getvalue(), mtime=0)


class Small:
    """The registry cut down to a few examples a dataset, and the contents of its files."""

    def __init__(self, root: Path):
        self.root = root
        self.contents = {name: self._draw(name) for name, source in DATASETS.items() if source.parts}

    def _draw(self, name: str) -> dict[str, bytes]:
        source = DATASETS[name]
        rng = np.random.default_rng(0)
        if source.format == "text":
            return {"input.txt": b"".join(b"line %d\n" % i for i in range(40))}
        contents = {}
        for part in source.parts:
            n = COUNTS[name]["train" not in part.member] if source.format == "idx" else 4
            if part.member.endswith("train.bin"):
                n = 8
            array = rng.integers(0, 256, (n, *part.shape[1:]), dtype=np.uint8)
            if source.format == "idx":
                array = array % 10 if array.ndim == 1 else array
                contents[part.member] = idx_file(array)
            else:
                array[:, 0] %= 10
                array[:, 1] = array[:, 1] % 100 if source.coarse_classes else array[:, 1]
                contents[part.member] = array.tobytes()
        return contents

    def shrink(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the registry say what the small files hold; no downloads, so that no test can reach out."""
        for name, contents in self.contents.items():
            source = DATASETS[name]
            counts = COUNTS.get(name, (30, 10))
            parts = []
            for part in source.parts:
                size = (len(contents[part.member]) - part.header) // int(np.prod(part.shape[1:]))
                parts.append(replace(part, shape=(size, *part.shape[1:])))
            monkeypatch.setitem(DATASETS, name, replace(source, counts=counts, parts=tuple(parts), downloads=()))

    def packed(self, name: str) -> dict[str, bytes]:
        """The compressed files of a dataset, as its publisher offers them."""
        contents = self.contents[name]
        match DATASETS[name].format:
            case "idx":
                return {f"{member}.gz": gzip.compress(data, mtime=0) for member, data in contents.items()}
            case "cifar":
                return {f"{name}-binary.tar.gz": tar_gz(contents)}
            case _:
                return contents

    def write(self, name: str, packed: bool = False) -> Path:
        """Write a sound dataset and return its folder."""
        folder = self.root / name
        for file, data in (self.packed(name) if packed else self.contents[name]).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        return folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    datasets = Small(tmp_path / "data")
    datasets.shrink(monkeypatch)
    monkeypatch.setenv("LOWLAND_DATA", str(datasets.root))
    return datasets


@pytest.fixture(name="idx_file")
def idx_file_fixture() -> Callable[..., bytes]:
    return idx_file


@pytest.fixture(name="tar_gz")
def tar_gz_fixture() -> Callable[..., bytes]:
    return tar_gz
