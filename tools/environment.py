"""Make the environment: `python tools/environment.py .venv [EXTRA ...]`, with Lowland as it stands in this folder.

A torch that this Python has already is taken, and nothing is downloaded in its place: a link to it, in a folder beside
the environment, so that pip never writes into what belongs to another Python. Needs nothing but Python itself.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAKEN = ROOT / ".cache" / "torch"
_WITH_TORCH = ("torch", "nvidia-", "cuda-", "triton", "pytorch-triton")  # what a build of torch consists of
_SAYS = """PyTorch is not in {python}: it will be downloaded, with all that Lowland needs.
On Linux (x86-64) that is 2.8 GB with the CUDA libraries of PyTorch's default build, and 0.3 GB with its CPU build.
Without an NVIDIA GPU, stop here (Ctrl-C), install PyTorch's CPU build for that Python as pytorch.org says, and run the
same command again: it is taken then."""


def least() -> tuple[int, ...]:
    """The version of torch that Lowland needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = next(need for need in project["dependencies"] if need.startswith("torch>="))
    return _numbers(needs.removeprefix("torch>="))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


def parts(name: str = "torch") -> Iterator[importlib.metadata.Distribution]:
    """The distribution ``name`` of this Python, and those beside it that its compiled parts load."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    yield found
    for need in found.requires or []:
        other = re.match(r"[\w.-]+", need)[0].lower().replace("_", "-")
        if other.startswith(_WITH_TORCH[1:]) and "extra ==" not in need:
            yield from parts(other)


def take(environment: Path) -> str | None:
    """Let the environment see the torch of this Python; its version, or None where there is none that will do."""
    shutil.rmtree(TAKEN, ignore_errors=True)
    found = list(parts())
    if not found or found[0].files is None or _numbers(found[0].version) < least():
        return None
    TAKEN.mkdir(parents=True)
    for part in found:
        for top in {file.parts[0] for file in part.files or []} - {"..", "__pycache__"}:
            if not (TAKEN / top).exists():
                (TAKEN / top).symlink_to(Path(str(part.locate_file(top))).resolve())
    python = _python(environment)
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (Path(purelib.stdout.strip()) / "torch_of_python.pth").write_text(f"{TAKEN}\n", encoding="utf-8")
    return found[0].version


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    """Make it, or bring it up to date."""
    environment, extras = Path(sys.argv[1]).absolute(), sys.argv[2:]
    constraints = ROOT / "constraints.txt"
    if not extras:
        venv.create(environment, with_pip=True)
        version = take(environment)
        if version is None:
            print(_SAYS.format(python=sys.executable), flush=True)
        else:
            print(f"taking PyTorch {version} of {sys.executable}; the rest, 0.1 GB, is downloaded", flush=True)
    if TAKEN.exists():  # of whatever version it is
        lines = constraints.read_text(encoding="utf-8").splitlines()
        constraints = environment / "constraints.txt"
        constraints.write_text("\n".join(line for line in lines if not line.startswith("torch==")), encoding="utf-8")
    package = f".[{','.join(extras)}]" if extras else "."
    pip = [_python(environment), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, "--constraint", constraints, "--editable", package], cwd=ROOT)
    raise SystemExit(installed.returncode)


if __name__ == "__main__":
    main()
