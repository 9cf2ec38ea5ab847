"""The device a run is trained on, and the versions of what it runs with."""

import platform
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import lowland
from lowland.errors import SettingError, suggestion
from lowland.training.settings import Settings
from lowland.values import Json

# The settings that ask for bfloat16: the value that does, and the one that doesn't.
_BFLOAT16 = {"amp": ("on", "off"), "precision": ("bfloat16", "float32")}


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda``, or ``mps`` for an Apple GPU.

    Raises:
        SettingError: for another name, or for a device that torch doesn't see.
    """
    known = ("auto", "cpu", "cuda", "mps")
    if name not in known:
        raise SettingError(f"unknown device {name}.{suggestion(name, known)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise SettingError("--device mps: torch sees no Apple GPU here; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def slow_bfloat16(settings: Settings, device: torch.device, autocast: torch.dtype | None = None) -> str:
    """Where bfloat16 is asked for on a CPU that lacks it: what is slow, and what makes it fast. Else empty.

    Args:
        settings: of the run, which may ask for it by ``amp`` or ``precision``.
        device: it is trained on.
        autocast: what its training computes in, where that is known.
    """
    asking = [f"--set {name}={fast}" for name, (asks, fast) in _BFLOAT16.items() if getattr(settings, name, "") == asks]
    if device.type != "cpu" or not (asking or autocast is torch.bfloat16) or has_bfloat16():
        return ""
    mend = f"; {' '.join(asking)} makes it fast, and is another run" if asking else ""
    return f"training in bfloat16 is many times slower than in float32 on this processor, which lacks it{mend}"


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 faster than by reference code, as torch's kernels (oneDNN) see it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def environment(device: torch.device) -> dict[str, Json]:
    """Versions, device and commit, for a summary."""
    return {
        "lowland": lowland.__version__,
        "commit": _commit(),
        "time": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scikit-learn": metadata.version("scikit-learn"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def made_with() -> dict[str, str | int]:
    """What the bits of a run hang on beside its settings, for a checkpoint."""
    return {"lowland": lowland.__version__, "torch": str(torch.__version__), "threads": torch.get_num_threads()}


def _commit() -> str | None:
    """The commit of a checkout that this package runs from, with a mark if there are changes; None elsewhere."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if tracked.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name
