import pickle
import subprocess
from dataclasses import replace

import pytest

from lowland import papers
from lowland.errors import SettingError
from lowland.training import registry
from tests import fakes
from tests.processes import end, python

FIRST = replace(fakes.TOY, name="tests/first")
SECOND = replace(fakes.TOY, name="tests/second")


def again(experiment):
    return pickle.loads(pickle.dumps(experiment))


def test_a_module_may_define_several():
    assert again(SECOND) is SECOND  # found among the modules
    assert registry.load(__name__) == {"tests/first": FIRST, "tests/second": SECOND}
    assert [again(one) for one in (SECOND, FIRST)] == [SECOND, FIRST]


def test_a_changed_one_is_found_as_what_it_was_made_from():
    assert again(replace(fakes.TOY, claims=())) is fakes.TOY


def test_one_that_is_nowhere_is_an_error():
    lost = replace(fakes.TOY, name="tests/lost")
    with pytest.raises(SettingError, match="has no experiment tests/lost: make it a variable of that module"):
        again(lost)


def test_every_experiment_of_the_papers_is_found_by_another_process():
    names = list(papers.experiments())
    code = "import pickle, sys; print(*(one.name for one in pickle.load(sys.stdin.buffer)), sep='\\n')"
    process = python("-c", code, stdin=subprocess.PIPE, text=None, errors=None)
    ended = end(process, read=pickle.dumps(list(papers.experiments().values())))
    assert ended.out.decode().split() == names, ended
