"""Make the environment: `python tools/environment.py .venv [EXTRA ...]`, with Lowland as it stands in this folder.

A torch that this Python has already is taken, and nothing is downloaded in its place: a link to it, in a folder beside
the environment, so that pip never writes into what belongs to another Python. Modules are compiled when they are first
imported, which only a part of them ever is. Needs nothing but Python itself.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
from lowland.patience import doing  # noqa: E402 - which loads nothing that isn't Python's

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
    (_packages(environment) / "torch_of_python.pth").write_text(f"{TAKEN}\n", encoding="utf-8")
    return found[0].version


def _packages(environment: Path) -> Path:
    """Where the environment has its packages."""
    purelib = subprocess.run(
        [_python(environment), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Path(purelib.stdout.strip())


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(environment: Path, package: str, constraints: Path) -> int:
    """Install ``package`` and what it needs, and say how far that is; the exit code of pip."""
    there = _packages(environment)
    before = len(list(there.glob("*.dist-info")))
    tells = any(_numbers(pip.name.removeprefix("pip-")) >= (24, 1) for pip in there.glob("pip-*.dist-info"))
    pip = [_python(environment), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile",
           "--progress-bar", "raw" if tells else "off", "--constraint", constraints, "--editable", package]  # fmt: skip
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        doing("looking for packages", elsewhere=True) as now,
        subprocess.Popen(pip, cwd=ROOT, env=unbuffered, stdout=subprocess.PIPE, text=True) as process,
    ):
        file = ""
        for line in map(str.strip, process.stdout):
            word, _, rest = line.partition(" ")
            if word in ("Collecting", "Downloading", "Processing"):
                file = now.what = f"{word.lower()} {rest.rpartition('/')[2]}"
            elif word == "Progress":
                done, _, whole = rest.partition(" of ")
                now.what = f"{file}, {int(done) / max(int(whole), 1):.0%}"
            elif line.startswith("Installing collected packages: "):
                names = line.partition(": ")[2].split(", ")
                while process.poll() is None:  # in this order, and each is done when its dist-info is there
                    done = len(list(there.glob("*.dist-info"))) - before
                    done = max(0, min(done, len(names) - 1))  # fewer while pip puts one in another's place
                    now.what = f"installing {names[done]}, {done + 1} of {len(names)} packages"
                    time.sleep(0.2)
        return process.wait()


def main() -> None:
    """Make it, or bring it up to date."""
    environment, extras = Path(sys.argv[1]).absolute(), sys.argv[2:]
    constraints = ROOT / "constraints.txt"
    if not extras:
        print(f"making an environment in {sys.argv[1]}", flush=True)
        with doing("making it", elsewhere=True):
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
    raise SystemExit(install(environment, package, constraints))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
