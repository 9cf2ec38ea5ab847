"""The guide's experiment, as the file that it says it is."""

import re
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/experiments.md"


@pytest.mark.slow
def test_the_file_of_the_guide_runs(lowland, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    first = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "tumours.py").write_text(first)
    ran = lowland("run", "tumours.py", "--set", "epochs=2")
    assert ran.code == 0, ran.err
    for word in ("sam", "sgd", "validation_error", "test_error", "train_loss"):
        assert word in ran.out
    assert lowland("show", "tumours.py").code == 0
    swept = lowland("sweep", "tumours.py", "--scale", "smoke")
    assert swept.code == 0, swept.err
    assert "45 runs: 45 done" in swept.out
