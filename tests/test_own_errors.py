"""What fails in an experiment of one's own is said with one's own lines; exit code 2, and no record is lost."""

import sys

import pytest

from lowland import experiments
from lowland.errors import ExperimentError
from lowland.training import read_records, registry

from .cases import variables
from .forked import Command
from .training.own_file import NET, TEXT, write

BUILDING = f"""

{NET}

def cross_entropy(output, y):
    return torch.nn.functional.cross_entropy(output, y)


def build(settings):
    return supervised(Net(settings.width), settings, (x[:120], y[:120]), test=(x[120:], y[120:]), loss_fn=cross_entropy)


"""
WHOLE = TEXT[: TEXT.index("\n\ndef build")] + BUILDING + TEXT[TEXT.index("MINE =") :]
BUILD = ("    return supervised(Net", "    raise KeyError('width')\n    return supervised(Net")
FORWARD = ("self.second(self.first(x).relu())", "self.second(self.first(x).reshape(-1, 7))")
LOSS = (
    "    return torch.nn.functional.cross",
    "    assert output.shape == y.shape, 'shapes differ'\n    return torch.nn.functional.cross",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def line_of(path, text):
    """The number of the line that has this text."""
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def broken(here, change):
    assert change[0] in WHOLE
    return write(here, WHOLE.replace(*change))


@pytest.mark.parametrize(
    ("change", "says", "shows"),
    [
        (BUILD, "mine: build failed at mine.py, line LINE: KeyError: 'width'", "raise KeyError('width')"),
        (FORWARD, "mine: training (Net.forward) failed at mine.py, line LINE: RuntimeError: ", ".reshape(-1, 7))"),
        (
            LOSS,
            "mine: training (cross_entropy) failed at mine.py, line LINE: AssertionError: shapes differ",
            "assert output",
        ),
    ],
)
def test_ones_own_frames_and_one_line(undrawn, lowland, here, change, says, shows):
    line = line_of(broken(here, change), shows)
    failed = lowland("run", "mine.py", "--out", "out")
    assert failed.code == 2
    *frames, last = failed.err.splitlines()
    assert last.startswith(f"lowland: {says.replace('LINE', str(line))}")
    assert shows in frames[-1] or shows in frames[-2]
    assert not any("/lowland/" in line or "torch/" in line for line in frames)
    write(here, WHOLE)  # mended, the same command trains: there was nothing to keep
    assert lowland("run", "mine.py", "--out", "out").code == 0


def test_a_mistyped_setting_is_one_line_with_the_nearest(undrawn, lowland, here):
    assert "Net(settings.width)" in WHOLE
    path = write(here, WHOLE.replace("Net(settings.width)", "Net(settings.widht)"))
    failed = lowland("run", "mine.py", "--out", "out")
    assert failed.code == 2
    place = f"mine.py, line {line_of(path, 'widht')}"
    assert failed.err.splitlines() == [
        f"lowland: mine: build failed at {place}: there is no setting widht. Did you mean width?"
    ]


def test_a_network_without_code_of_its_own(undrawn, lowland, here):
    write(here, TEXT.replace("Linear(4, settings.width)", "Linear(5, settings.width)"))
    failed = lowland("run", "mine.py")
    assert failed.code == 2
    *frames, last = failed.err.splitlines()
    layer = "the layer 0 of Sequential, Linear(in_features=5, out_features=3, bias=True), given (108, 4)"
    assert last.startswith(f"lowland: mine: training failed in {layer}: RuntimeError: mat1")
    assert frames[0].endswith(f'mine.py", line {line_of(here / "mine.py", "def build")}, in build')
    assert frames[1].strip() == "def build(settings):"


def test_a_layer_in_a_network_of_ones_own_is_named(undrawn, lowland, here):
    broken(here, ("torch.nn.Linear(width, 2)", "torch.nn.Linear(7, 2)"))
    failed = lowland("run", "mine.py")
    at = f"mine.py, line {line_of(here / 'mine.py', 'self.second(self.first')}"
    layer = "the layer second of Net, Linear(in_features=7, out_features=2, bias=True), given (108, 3)"
    assert f"training (Net.forward) failed at {at}, in {layer}: RuntimeError: mat1" in failed.err


def test_what_build_and_loss_give_is_looked_at(undrawn, refused, here):
    write(here, TEXT.replace("    return supervised", "    supervised"))
    refused("run", "mine.py", says="build gives a NoneType and not a task")
    loss = "test=(x[120:], y[120:]), loss_fn=torch.nn.CrossEntropyLoss(reduction='none'))"
    write(here, TEXT.replace("test=(x[120:], y[120:]))", loss))
    refused("run", "mine.py", says="loss_fn gives a tensor of shape (108,): it must give the mean over the batch")
    measure = "test=(x[120:], y[120:]), measure=lambda model: {'norm': model[0].weight.norm()})"
    write(here, TEXT.replace("test=(x[120:], y[120:]))", measure))
    refused("run", "mine.py", says="measure gives norm as a Tensor: make it a number")


def test_records_are_kept(undrawn, lowland, here):
    broken(here, ("    return torch.nn.functional.cross", "    STEPS.append(1)\n    if len(STEPS) > 40:\n"
                  "        raise RuntimeError('late')\n    return torch.nn.functional.cross"))  # fmt: skip
    path = here / "mine.py"
    path.write_text(path.read_text().replace("class Net", "STEPS = []\n\n\nclass Net"))
    failed = lowland("run", "mine.py", "--out", "out")
    assert failed.code == 2
    assert failed.err.endswith("RuntimeError: late\n")
    assert [record["step"] for record in read_records(here / "out")["sam"]][:2] == [0, 6]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [("process", "--workers", "1"), ("vectorized",)], ids=" ".join)
def test_a_sweep_says_the_same(lowland, here, engine):
    broken(here, FORWARD)
    failed = lowland("sweep", "mine.py", "--engine", *engine)
    assert failed.code == 2
    assert "(Net.forward) failed at mine.py, line " in failed.err or "vmap" in failed.err
    assert "Traceback" not in failed.err
    broken(here, BUILD)
    failed = lowland("sweep", "mine.py", "--engine", *engine, "--out", "other")
    assert failed.code == 2
    assert "build failed at mine.py, line " in failed.err
    assert "KeyError: 'width'" in failed.err
    assert "Traceback" not in failed.err


@pytest.mark.slow
def test_several_processes_say_the_same(here):
    broken(here, FORWARD)
    processes = [Command("run", "mine.py", "--out", "two", cwd=here, environment=one) for one in variables(2)]
    ended = [process.wait() for process in processes]
    assert all(each.code for each in ended)
    said = "".join(each.err for each in ended)
    assert "(Net.forward) failed at mine.py, line " in said
    assert "lowland/training" not in said


def test_from_python_the_exception_itself_comes_out(here):
    line = line_of(broken(here, BUILD), "raise KeyError")
    for call in (experiments.run, experiments.sweep):
        with pytest.raises(KeyError, match="width") as raised:
            call("mine.py")
        assert raised.value.__notes__ == [f"mine: build failed at mine.py, line {line}: KeyError: 'width'"]
        assert not isinstance(raised.value.__context__, ExperimentError)


def test_what_a_judge_raises_is_said_and_the_run_can_be_judged_once_it_is_mended(undrawn, lowland, here):
    claim = ("import Experiment,", "import Claim, Experiment, Verdict,")
    judged = "build=build, claims=(Claim('one', 'text', 'ours', '< 9', lambda arms: Verdict(1 / ZERO, True)),),"
    broken(here, claim)
    path = here / "mine.py"
    path.write_text(path.read_text().replace("build=build,", judged.replace("ZERO", "len(arms['sam'].records[30:])")))
    failed = lowland("run", "mine.py", "--out", "out")
    assert failed.code == 2
    assert "mine: the claim one (<lambda>) failed at mine.py, line " in failed.err
    before = (here / "out/metrics.jsonl").read_bytes()
    path.write_text(path.read_text().replace("len(arms['sam'].records[30:])", "2"))
    assert lowland("run", "mine.py", "--out", "out").code == 0
    assert (here / "out/metrics.jsonl").read_bytes() == before


SMALLER = "smaller('sam', 'sgd', last('test_loss'))"
COLUMNS = "The records have epoch, train_loss, validation_loss, test_loss"


def claiming(judge):
    """The text of a file whose experiment has one claim."""
    names = "from lowland.experiments import Claim, last, reached, smaller\n"
    text = WHOLE.replace("from lowland.training import", f"{names}from lowland.training import")
    claim = f"claims=(Claim('one', 'text', 'ours', 'interval < 0', {judge}, over_seeds=True),),"
    return text.replace("build=build,", f"build=build, {claim}")


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (
            SMALLER.replace("test_", "tset_"),
            f"the claim one asks for the column tset_loss, which there isn't. Did you mean test_loss? {COLUMNS}",
        ),
        (
            "smaller('sam', 'sgd', lambda outcome: outcome.records[-1]['nothing'])",
            f"the claim one asks for the column nothing, which there isn't. {COLUMNS}",
        ),
        (
            SMALLER.replace("'sgd'", "'sdg'"),
            "the claim one asks for the arm sdg, which there isn't. Did you mean sgd? The arms are sam, sgd",
        ),
        (
            f"{SMALLER}, regime=reached('erm', last('test_loss'), 1.0, 'the loss')",
            "the claim one asks for the arm erm, which there isn't. The arms are sam, sgd",
        ),
        (
            "lambda arms: arms['sma-0']",
            "the claim one asks for the arm sma-0, which there isn't. Did you mean sam? The arms are sam, sgd",
        ),
        ("lambda arms: arm", "mine: the claim one (<lambda>) failed at mine.py, line 31: NameError: name 'arm' is not"),
        ("lambda arms: 1 < 2", "the judge of the claim one gives a bool and not a Verdict"),
        ("'smaller'", "TypeError: the claim one: judge is a function of the outcomes by arm, not 'smaller'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_mistake_in_a_claim_is_said_once_and_before_training(undrawn, lowland, here, judge, says, command):
    path = write(here, claiming(judge))
    failed = lowland(command, "mine.py", "--out", "out")
    assert failed.code == 2
    assert failed.err.count(says) == 1
    assert "runs failed" not in failed.err
    if (here / "out").exists():
        assert len(read_records(here / "out").get("sam", [0])) == 1
    assert not list(here.glob("out/runs/*"))
    path.write_text(claiming(SMALLER))
    assert lowland(command, "mine.py", "--out", "out").code == 0


def test_what_a_judge_cannot_say_of_a_first_record_is_no_mistake(undrawn, lowland, here):
    judge = "lambda arms: (arms['sam'].records[3], smaller('sam', 'sgd', last('test_loss'))(arms))[1]"
    write(here, claiming(judge))
    assert lowland("run", "mine.py", "--out", "out").code == 0


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_column_that_is_mistyped_after_training_is_named_and_nothing_is_trained_again(
    undrawn, lowland, here, command
):
    path = write(here, claiming(SMALLER))
    assert lowland(command, "mine.py", "--out", "out").code == 0
    before = {file: file.read_bytes() for file in here.glob("out/**/metrics.jsonl")}
    path.write_text(path.read_text().replace("last('test_loss')", "last('tset_loss')"))
    failed = lowland(command, "mine.py", "--out", "out")
    assert failed.code == 2
    assert "the claim one asks for the column or arm tset_loss, which there isn't" in failed.err
    assert "Did you mean test_loss?" in failed.err
    path.write_text(path.read_text().replace("last('tset_loss')", "last('test_loss')"))
    assert lowland(command, "mine.py", "--out", "out").code == 0
    assert {file: file.read_bytes() for file in here.glob("out/**/metrics.jsonl")} == before


def test_errors_of_ours_keep_their_traceback(here):
    """What fails in Lowland's own code is not laid to the experiment's charge."""
    write(here)
    mine = registry.find("mine.py")
    with pytest.raises(AttributeError), mine.calling("training"):
        "".nothing()
