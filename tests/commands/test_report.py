"""`lowland report`: where the page goes, what is refused, and watching."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from lowland.report.page import watching

from ..processes import end, start, until
from ..report.page import made


@pytest.fixture
def run(tmp_path):
    return made.run(tmp_path / "one", made.arms())


def test_the_page_of_one_directory_goes_into_it(lowland, run):
    outcome = lowland("report", "one")
    assert outcome.code == 0
    assert outcome.out.splitlines() == ["one: finished: 2 done", "page:    one/report.html"]
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert lowland("report", "one").code == 0


def test_the_page_of_several_goes_here_or_where_it_is_told(lowland, run, tmp_path):
    made.run(tmp_path / "two", made.arms(rho=0.3))
    assert lowland("report", "one", "two").code == 0
    assert (tmp_path / "report.html").exists()
    assert lowland("report", "one", "two", "--out", "pages/both.html").code == 0
    assert (tmp_path / "pages/both.html").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_report_in_a_run_directory_does_not_disturb_the_run(lowland, run):
    lowland("report", "one")
    assert lowland("report", "one").code == 0
    with made.training.RunDirectory(run, made.training.read_json(run / "config.json")) as directory:
        assert directory.summary() is not None


def test_bad_input_is_one_line(refused, run, tmp_path):
    refused("report", "nowhere", says=("nowhere isn't there", "name a directory"))
    (tmp_path / "empty").mkdir()
    refused("report", "empty", says=("neither a run nor a sweep", "config.json"))
    refused("report", "one", "empty", says="neither a run nor a sweep")
    refused("report", ".", says="name those inside, as in `lowland report one")
    refused("report", "one", "one/../one", says="named twice")
    refused("report", "one", "--out", "page.txt", says=".html")
    (tmp_path / "folder.html").mkdir()
    refused("report", "one", "--out", "folder.html", says="is a folder")
    (tmp_path / "file").write_text("")
    refused("report", "one", "--out", "file/page.html", says="file")
    refused("report", says="DIR")
    (run / "metrics.jsonl").write_text("")
    refused("report", "one", says=("metrics.jsonl is damaged", "checksum"))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_access_is_one_line(refused, run, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    refused("report", "one", "--out", "closed/page.html", says=("Permission denied", "closed/page.html"))


def test_help_has_an_example(lowland):
    outcome = lowland("report", "--help")
    assert "Example: lowland report" in outcome.out
    assert "--watch" in outcome.out


def test_watching_renews_the_page_until_all_is_finished(lowland, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "POLL", 0.05)
    begun = {"sam": made.outcome(steps=(0, 5)), "plain": made.outcome(steps=())}
    path = made.run(tmp_path / "one", begun, finished=False)
    page, seen = path / "report.html", []

    def go_on():
        while not page.exists():
            time.sleep(0.02)
        seen.append(page.read_text(encoding="utf-8"))
        rest = {"sam": replace(begun["sam"], records=made.records(made.SETTINGS, range(10, 41, 5)))}
        made.run(path, rest | {"plain": made.outcome()})

    thread = threading.Thread(target=go_on)
    thread.start()
    outcome = lowland("report", "one", "--watch")
    thread.join()
    assert outcome.code == 0
    assert outcome.out.splitlines() == ["page:    one/report.html", "one: finished: 2 done"]
    assert 'id="watching"' in seen[0]
    assert "under way" in seen[0]
    assert 'id="watching"' not in page.read_text(encoding="utf-8")


def test_watching_bears_with_a_file_that_is_being_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "POLL", 0.01)
    path = made.run(tmp_path, {"sam": made.outcome(steps=(0, 5))}, finished=False)
    whole = (path / "config.json").read_bytes()
    told = []

    def tell(sources):
        told.append(sources[0].told)
        if len(told) == 1:
            (path / "config.json").write_bytes(whole[:10])
            threading.Timer(0.015, lambda: (path / "config.json").write_bytes(whole)).start()
        else:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watching.watch([path], path / "report.html", tell)
    assert len(told) == 2


@pytest.mark.slow
def test_an_interrupt_ends_watching(tmp_path):
    made.run(tmp_path / "one", {"sam": made.outcome(steps=(0, 5))}, finished=False)
    process = start("report", "one", "--watch", cwd=tmp_path)
    until(lambda: (tmp_path / "one/report.html").exists(), process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.code == 130
    assert ended.err.strip().splitlines() == ["lowland: interrupted; the same command goes on where it stopped"]
    assert 'id="watching"' in (tmp_path / "one/report.html").read_text(encoding="utf-8")
