"""Install a wheel into an empty environment and try it there: `python tools/smoke.py dist/lowland-*.whl`.

The environment lies outside of the clone, so that only what the wheel holds can be found.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TRAINING = """
import torch
import lowland

assert lowland.__version__ == {version!r}, lowland.__version__
assert not lowland.__file__.startswith({root!r}), lowland.__file__
digits = lowland.data.load("digits").train
x, y = digits.inputs.flatten(1) / 16, digits.targets
model = lowland.models.mlp([64, 50, 10])
optimizer = lowland.SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=model)
losses = []
for _ in range(20):
    for evaluation in optimizer.passes():
        with evaluation:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
"""


def main() -> None:
    """Install, train, and run the commands whose files only the wheel can have."""
    wheel = Path(sys.argv[1]).resolve()
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        venv.create(there / "venv", with_pip=True)
        commands = there / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

        def run(*command: str | Path) -> str:
            print("$", *command, flush=True)
            done = subprocess.run([commands / command[0], *command[1:]], cwd=there, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{done.stdout}{done.stderr}failed with exit code {done.returncode}")
            return done.stdout

        run("python", "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check",
            "--constraint", ROOT / "constraints.txt", wheel)  # fmt: skip
        run("python", "-c", _TRAINING.format(version=version, root=str(ROOT)))
        said = run("lowland", "--version")
        assert version in said, said
        assert "long2024/digits" in run("lowland", "list")
        run("lowland", "run", "long2024/digits", "--scale", "smoke", "--out", "run")
        run("lowland", "new", "mine.py")
        run("lowland", "report", "run")
        page = (there / "run" / "report.html").read_text(encoding="utf-8")
        assert "long2024/digits" in page
    print(f"{wheel.name} works in an empty environment")


if __name__ == "__main__":
    main()
