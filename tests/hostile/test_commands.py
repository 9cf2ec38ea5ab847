"""Command lines and grid files by a drunken typist: each ends, with 0, 1 or 2, and 2 says why in one line."""

import json
import signal
from itertools import product
from typing import get_type_hints

import pytest

from lowland.papers import find
from lowland.training.settings import describe

from .children import call

NAMES = (
    "long2024/digits", "long2024/digits", "long2024/digits", "springer2024/toy", "andriushchenko2022/diagonal",
    "andriushchenko2022/relu", "tests/victim", "tests/victim",
)  # fmt: skip
NO_DATA = (
    "long2024/mnist", "long2024/cifar10", "long2024/shakespeare", "springer2024/cifar-mnist", "springer2024/celeba",
    "springer2024/domainbed", "springer2024/waterbirds", "springer2024/fmnist-mnist", "andriushchenko2022/cifar10",
    "andriushchenko2022/finetune", "andriushchenko2022/label-noise", "andriushchenko2022/cifar100",
    "andriushchenko2022/convergence",
)  # fmt: skip
KEYS = (
    "lr", "rho", "steps", "check_every", "seed", "batch_size", "momentum", "weight_decay", "m", "epochs", "width",
    "examples", "size", "sam.lr", "gd.rho", "x.lr", "seeds", "tol", "eps", "hidden", "depth", "", "=", "ρ", "sam.",
    ".lr", "phases", "phase_steps", "check_epochs", "validation", "start", "norm", "method", "network", "held_out",
    "dataset", "features", "dimension", "slabs", "noisy", "kind", "pause", "beta", "test_examples",
)  # fmt: skip
VALUES = (
    "0", "1", "2", "-1", "0.1", "1e-3", "1e30", "1e308", "1e400", "-0.0", "nan", "inf", "-inf", "1e5", "0x10", "1_000",
    "２", "true", "false", "none", "", " ", "sgd", "adam", "9" * 30, "9" * 400, "1" + "0" * 5000, "2147483648",
    "9223372036854775807", "9223372036854775808", "4611686018427387904", "1e18", "1e12", "3000000000", "0.5", "[1]",
    "{}", "null", "'", "\n", "\t", "ρ", "💥", "../..", "/", "\udcff", "-", "--", "%s", "all", "group", "1,2", "1e-320",
)  # fmt: skip
OPTIONS = (
    "--scale", "--seed", "--device", "--set", "--strict", "--json", "--out", "--arm", "--key", "--grid", "--engine",
    "--workers", "--address", "--halving", "--help", "--version", "--nonsense", "-x", "--", "--scale=smoke",
    "--set=lr=1",
)  # fmt: skip
WORDS = (
    "smoke", "laptop", "paper", "huge", "cpu", "cuda", "gpu", "auto", "vectorized", "process", "ray", "0", "1",
    "2", "-1", "1000000000000", "nan", "x", "", "here", "nowhere/at/all", "/dev/null", "/proc/self/mem", ".", "\n",
    "grid.json", "ρ", "'", "localhost:1", "ray://x", "\udcff", "a" * 5000,
)  # fmt: skip
COMMANDS = ("run", "run", "run", "sweep", "sweep", "evaluate", "show", "list", "data", "rum", "", "--version", "--help")


def drawn_line(draw):
    """A command line; mostly one that is nearly right."""
    command = draw.choice(COMMANDS)
    line = [command]
    if command in ("run", "sweep", "evaluate", "show"):
        line.append(draw.choice(NAMES if draw.random() < 0.75 else NO_DATA if draw.random() < 0.8 else WORDS))
    if command == "evaluate":
        line.append(draw.choice(("here", "nowhere", "weights.pt", ".", "/dev/null", "grid.json")))
    if command == "data":
        line += [
            draw.choice(("status", "verify", "fetch", "x")),
            *draw.choices((*NO_DATA, "mnist", "x", ""), k=draw.randint(0, 1)),
        ]
    if command in ("run", "sweep", "evaluate"):
        if draw.random() < 0.85:
            line += ["--scale", "smoke"]
        for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
            line += [
                "--set",
                f"{draw.choice(KEYS)}={draw.choice(VALUES)}" if draw.random() < 0.9 else draw.choice(VALUES),
            ]
        if command == "sweep" and draw.random() < 0.9:
            line += ["--grid", draw.choice(("grid.json", "grid.json", "paper", "nowhere.json", "m", ".", "/dev/null"))]
        line += ["--out", "out"] if draw.random() < 0.8 and command != "evaluate" else []
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        line.append(draw.choice(OPTIONS))
        if draw.random() < 0.7:
            line.append(draw.choice(WORDS))
    return [word.replace("\0", "") for word in line]


def drawn_json(draw, depth=3):
    kind = draw.randrange(8 if depth else 6)
    if kind < 6:
        return draw.choice((None, True, 0, 1, -1, 0.1, 1e308, 2**63, 10**400, "x", "0.1", "nan", "", "ρ", [], {}))
    if kind == 6:
        return [drawn_json(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {draw.choice(KEYS): drawn_json(draw, depth - 1) for _ in range(draw.randrange(4))}


def drawn_grid(draw):
    """The content of a grid file."""
    how = draw.random()
    if how < 0.15:
        return draw.choice((
            b"", b"\0" * 100, b"\xff\xfe{}", b"[" * 100_000, b'{"rho":' * 50_000, b"{", b"NaN", b'{"rho": [NaN]}',
            b'{"rho": [1e999]}', b'{"rho": [0], "rho": [1]}', b'{"rho": [' + b"1," * 200_000 + b"1]}", b"1" * 5000,
            b'{"rho": [' + b"9" * 5000 + b"]}", b'\xef\xbb\xbf{"rho": [0]}', b'{"seed": "\\ud800"}',
        ))  # fmt: skip
    if how < 0.4:
        return json.dumps(drawn_json(draw)).encode()
    keys = draw.sample(
        ("lr", "rho", "seed", "steps", "check_every", "momentum", "width", "x", "seeds", "batch_size"),
        draw.randint(1, 3),
    )
    values = [0, 0.1, 1, 2, -1, "0.1", "x", None, 1e30, 10**12, 2**31, [1], {}, True, 1e-320, 10**400]
    weights = [8, 8, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    return json.dumps({key: draw.choices(values, weights, k=draw.randint(0, 3)) for key in keys}).encode()


def try_some(draw, folder, trials, patience=15):
    """Each in a folder of its own; what was wrong, for all of them."""
    wrong = []
    for trial in range(trials):
        here = folder / str(trial)
        (here / "here").mkdir(parents=True)
        (here / "grid.json").write_bytes(drawn_grid(draw))
        (here / "weights.pt").write_bytes(draw.randbytes(draw.choice((0, 10, 1000))))
        line = drawn_line(draw)
        ended = call(
            *line, cwd=here, seconds=100, environment={"LOWLAND_DATA": str(here / "data")},
            setup=[("undrawn",), ("offline",), ("until", patience), ("limit", "RLIMIT_AS", 24 << 30)],
        )  # fmt: skip
        too_long = ended.code == -signal.SIGALRM and "Traceback" not in ended.err  # it trains, and is right to do so
        if not (ended.is_clear() or too_long):
            wrong.append((line, (here / "grid.json").read_bytes()[:300], ended))
    return wrong


@pytest.mark.parametrize("part", range(2))
def test_some_command_lines(part, draw, tmp_path, count):
    count("command lines and grid files", 6)
    assert not try_some(draw, tmp_path, 6, patience=4)


@pytest.mark.hostile
@pytest.mark.parametrize("part", range(30))
def test_command_lines(part, draw, tmp_path, count):
    count("command lines and grid files", 10)
    assert not try_some(draw, tmp_path, 10)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 8]"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        TypeError(
            "empty(): argument 'size' failed to unpack the object with error \"Overflow when unpacking long long\""
        ),
        RuntimeError("numel: integer multiplication overflow"),
        ValueError("Maximum allowed dimension exceeded"),
        ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size."),
        OverflowError("Python int too large to convert to C long"),
        OverflowError("int too big to convert"),
    ],
    ids=str,
)
def test_whatever_says_that_memory_does_not_suffice(error, monkeypatch, refused):
    def allocate(*_, **__):
        raise error

    monkeypatch.setattr("torch.nn.init.trunc_normal_", allocate)
    refused("run", "long2024/digits", "--scale", "smoke", "--out", "run", says=("out of memory", "smaller"))


@pytest.mark.hostile
@pytest.mark.parametrize("name", [*dict.fromkeys(NAMES[:-2]), *NO_DATA])
def test_sizes(name, tmp_path, count):
    """Every setting that is a whole number, as large as it gets."""
    hints = get_type_hints(find(name).settings)
    whole_numbers = [key for key in describe(find(name).settings) if hints[key] is int]
    for trial, (key, value) in enumerate(product(whole_numbers, ("4611686018427387904", "1000000000000", "9" * 30))):
        (tmp_path / str(trial)).mkdir()
        count("command lines and grid files")
        ended = call(
            "run", name, "--scale", "smoke", "--set", f"{key}={value}", "--out", "out", cwd=tmp_path / str(trial),
            setup=[("undrawn",), ("offline",), ("until", 10), ("limit", "RLIMIT_AS", 12 << 30)],
        )  # fmt: skip
        too_long = ended.code == -signal.SIGALRM and "Traceback" not in ended.err
        assert ended.is_clear() or too_long, (key, value, ended)
