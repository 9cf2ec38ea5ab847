"""Makes timm importable: from beside the environment, and beside a torch that torchvision wasn't compiled for.

timm takes a few classes of torchvision that are written in Python alone. But importing torchvision registers shapes
for operators of its compiled part, and fails where that part doesn't load: with a torch without CUDA, say, for which
the usual index has no build. The operators that it misses are declared here, without any code: to call one is an
error, as before.
"""

import re
import sys
from pathlib import Path

import torch

#: Where `make models` puts timm and torchvision: other libraries that look for torchvision mustn't find it.
BESIDE = Path(sys.prefix) / "models"
#: Operators stay declared for as long as these are kept.
DECLARED: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, declaring what it misses until that works."""
    sys.path.append(str(BESIDE))
    while True:
        try:
            import torchvision  # noqa: F401

            return
        except RuntimeError as stop:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(stop))
            if missing is None:
                raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(f"{missing[1]}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        DECLARED.append(library)
