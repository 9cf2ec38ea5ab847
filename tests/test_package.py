"""What the package says of itself: its version, what it needs, how to get what is optional."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import lowland
from lowland.errors import install

from .processes import loaded_by, printed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
IMPORTED_AS = {
    "sklearn": "scikit-learn",
    "pil": "pillow",
    "pytorch_lightning": "lightning",
    "torchmetrics": "lightning",
}

# Files outside of the adapters that import what an extra brings.
OPTIONAL = ("cluster.py", "logs.py", "result.py")


def names(requirements):
    return {re.split(r"[<>=\[ ;]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(path):
    """The packages from elsewhere that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            name = module.partition(".")[0]
            if name not in sys.stdlib_module_names and name != "lowland":
                yield IMPORTED_AS.get(name.lower(), name.lower().replace("_", "-"))


HEAVY = {
    "matplotlib", "PIL", "rich", "scipy", "sklearn", "tensorboard", "torch.distributed.tensor", "typer", "wandb",
}  # fmt: skip


def test_importing_loads_torch_and_nothing_heavier():
    rooms = ("SAM", "compat", "curvature", "data", "features", "models", "optim")
    assert not HEAVY & loaded_by("import lowland; " + "; ".join(f"lowland.{room}" for room in rooms))


def test_the_command_line_starts_without_torch():
    statement = "import sys; sys.argv = ['lowland', '--version']; from lowland import cli, commands, patience, streams"
    assert (
        printed(f"{statement}; commands.call(['--version']); print('torch' in sys.modules)").strip().endswith("False")
    )


def test_everything_that_is_imported_is_declared():
    declared = names(PROJECT["project"]["dependencies"])
    optional = {name for extra, needs in EXTRAS.items() if extra not in ("dev", "benchmarks") for name in names(needs)}
    for path in sorted((ROOT / "src/lowland").rglob("*.py")):
        known = declared | optional if "adapters" in path.parts or path.name in OPTIONAL else declared
        assert set(imported(path)) <= known, path
    assert declared - {name for path in (ROOT / "src").rglob("*.py") for name in imported(path)} == set()


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lowland.__version__"}
    setuptools = pytest.importorskip("setuptools.config.pyprojecttoml", reason="setuptools is not installed")
    assert setuptools.read_configuration(ROOT / "pyproject.toml")["project"]["version"] == lowland.__version__


def test_the_environment_declares_no_other_version():
    assert metadata.version("lowland") == lowland.__version__


def test_every_hint_at_an_extra_names_one_and_works_in_a_clone():
    assert install("ray") == "in a clone of Lowland: pip install '.[ray]'"
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*")]
    asked = set()
    for path in [*files, ROOT / "README.md", *(ROOT / "benchmarks").glob("*.py")]:
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            assert "lowland[" not in text.replace("lowland[accelerate,", ""), path
            asked |= set(re.findall(r"install\('(\w+)'\)|'\.\[(\w+)\]'", text))
    assert {name for pair in asked for name in pair if name} <= set(EXTRAS)


def test_the_citation_is_of_this_version():
    citation = ROOT / "CITATION.cff"
    assert f"\nversion: {lowland.__version__}\n" in citation.read_text(encoding="utf-8")


def test_what_is_public_is_listed_and_there():
    listed = dir(lowland)
    assert {"SAM", "Monitor", "Hessian", "presets", "curvature", "experiments"} <= set(listed)
    assert not [name for name in listed if getattr(lowland, name) is None]
    assert lowland.presets.ASAM is lowland.optim.presets.ASAM


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ASAM", ": it is lowland.optim.presets.ASAM"),
        ("sam_edge", ": it is lowland.curvature.sam_edge"),
        ("sam_gradient", ": it is lowland.optim.functional.sam_gradient"),
        ("first_step", ": a loop that calls first_step and second_step runs unchanged with lowland.compat.SAM"),
        ("Monitr", ". Did you mean Monitor?"),
        ("functools", ". Known: Hessian, MSam, "),
        ("__wrapped__", ""),
    ],
)
def test_another_name_says_where_it_is(name, says):
    assert not hasattr(lowland, name)
    with pytest.raises(AttributeError) as caught:
        getattr(lowland, name)
    assert str(caught.value).startswith(f"module 'lowland' has no attribute '{name}'{says}")
