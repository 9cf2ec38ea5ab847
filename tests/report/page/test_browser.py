"""The page in a real browser."""

from dataclasses import replace

import pytest

from lowland.report.page import write_page

from . import made
from .browser import browser

pytestmark = pytest.mark.slow
VARIED = ("lr", "rho", "seed")
SLIM = 390
WIDE = 1280
TRACES = "document.querySelector('#charts .plot').data"


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages by name: what a reader may have to look at."""
    path = tmp_path_factory.mktemp("pages")
    diverged = made.arms()
    diverged["plain"] = replace(made.outcome(steps=(0, 5), settings=diverged["plain"].settings), diverged_at=7)
    lost = made.grid()
    lost["lr=1.0,rho=0.3,seed=1"] = replace(lost["lr=1.0,rho=0.3,seed=1"], diverged_at=3)
    directories = {
        "run": [made.run(path / "run", made.arms())],
        "diverged": [made.run(path / "diverged", diverged)],
        "begun": [made.run(path / "begun", {"sam": made.outcome(steps=(0,))}, finished=False)],
        "nothing": [made.sweep(path / "nothing", made.grid(), VARIED, finished=False)],
        "sweep": [made.sweep(path / "sweep", lost, VARIED)],
        "several": [made.run(path / "a", made.arms()), made.run(path / "b", made.arms(rho=0.2))],
        "strangers": [
            path / "run",
            made.run(path / "other", made.arms(), experiment=replace(made.EXPERIMENT, name="tests/other")),
        ],
    }
    for name, those in directories.items():
        write_page(those, path / f"{name}.html")
    return path


NAMES = ["run", "diverged", "begun", "nothing", "sweep", "several", "strangers"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (SLIM, True)])
def test_every_page_is_whole(page, folder, name, width, dark):
    page.size(width, dark)
    page.open(folder / f"{name}.html")
    page.draw_all()
    errors, asked = page.logs()
    assert errors == []
    assert {address.partition(":")[0] for address in asked} <= {"file", "data", "blob"}
    assert sum(address.startswith("file:") for address in asked) == 1
    assert page.run("return document.documentElement.scrollWidth") <= width  # nothing sticks out


def test_the_browser_itself_forbids_requests(page, folder):
    page.open(folder / "run.html")
    page.run("const image = new Image(); image.src = 'https://example.org/x.png'; document.body.append(image)")
    page.wait("return performance.getEntriesByType('resource').length >= 0")
    assert page.wait("return document.images[document.images.length - 1].complete")
    errors, _ = page.logs()
    assert "Content Security Policy" in errors[0]


def test_a_click_on_a_row_picks_its_curves(page, folder):
    page.size(WIDE)
    page.open(folder / "sweep.html")
    page.draw_all()
    page.run("document.querySelectorAll('#table tbody tr')[2].click()")
    assert page.run("return location.hash") == "#picked=2"
    assert page.run("return document.querySelectorAll('#table tr.picked').length") == 1
    coloured = f"return new Set({TRACES}.map((trace) => trace.meta).filter((meta) => meta != null)).size"
    assert page.run(coloured) == 1
    assert not page.run("return document.querySelector('#picked').hidden")
    page.run("document.querySelectorAll('#table tbody tr')[2].click()")
    assert page.run(coloured) == 6


def test_the_choices_stand_in_the_address_and_come_back(page, folder):
    page.open(folder / "sweep.html", "#picked=1&y-scale=linear&panels=2&sort=loss-down&theme=dark&filter=lr%3D0.1")
    page.draw_all()
    assert page.run("return document.querySelectorAll('#charts .chart').length") == 1
    assert page.run("return document.querySelector('#charts .plot').layout.yaxis.type") == "linear"
    assert page.run("return document.documentElement.dataset.theme") == "dark"
    rows = page.run("return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[3].textContent)")
    values = [float(text.split()[0]) for text in rows]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)


def test_the_table_is_sorted_and_filtered(page, folder):
    page.open(folder / "sweep.html")
    page.run("document.querySelector('[data-sort=\"loss\"]').click()")
    assert page.run("return document.querySelector('[data-sort=\"loss\"]').closest('th').ariaSort") == "ascending"
    first = page.text("#table tbody tr th")
    assert "★" in first  # the lowest loss is what the sweep selects by
    page.keys("#filter", "rho >= 0.1 diverged")
    assert page.text("#count") == "1 of 6 rows"
    page.run("document.querySelector('#each').click()")
    assert page.text("#count") == "1 of 18 rows"


def test_it_works_by_keyboard_alone(page, folder):
    from selenium.webdriver.common.keys import Keys

    page.size(WIDE)
    page.open(folder / "run.html")
    page.draw_all()
    page.keys("#table tbody button", Keys.ENTER)
    assert page.run("return location.hash") == "#picked=0"
    assert page.run("return document.activeElement.dataset.row") == "0"
    reached = []
    page.run("document.body.focus(); document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.run("const at = document.activeElement; return at.id || at.className || at.textContent"))
    for wanted in ("theme", "filter", "csv", "y-scale", "x-scale", "only"):
        assert wanted in reached, reached
    assert any("plot" in each for each in reached)
    width = "const range = document.querySelector('#charts .plot').layout.xaxis.range; return range[1] - range[0]"
    before = page.run(width)
    page.keys("#charts .plot", "+")
    assert page.wait(f"const now = (() => {{ {width} }})(); return now < 0.6 * {before}")
    page.keys("#charts .plot", "0")
    assert page.wait(f"const now = (() => {{ {width} }})(); return Math.abs(now - {before}) < 1e-6 * {before}")


def test_scales_columns_and_seeds_are_chosen(page, folder):
    page.open(folder / "sweep.html")
    page.draw_all()
    bands = f"return {TRACES}.filter((trace) => trace.fill === 'toself').length"
    assert page.run(bands) > 0
    page.select("#seeds", "runs")
    assert page.run(bands) == 0
    page.select("#y-scale", "linear")
    assert page.run("return document.querySelector('#charts .plot').layout.yaxis.type") == "linear"
    page.run("document.querySelectorAll('#panels input').forEach((box) => box.checked || box.click())")
    assert page.run("return document.querySelectorAll('#charts .plot').length") == 5


def test_a_diverged_arm_is_marked(page, folder):
    page.open(folder / "diverged.html")
    page.draw_all()
    marks = f"return {TRACES}.filter((trace) => trace.marker?.symbol === 'x').map((trace) => trace.text[0])"
    assert "diverged at step 7" in page.run(marks)[0]
    assert "plain (diverged)" in page.text("#legend")


def test_the_grid_is_drawn(page, folder):
    page.size(WIDE)
    page.open(folder / "sweep.html")
    page.draw_all()
    kinds = page.run("return [...document.querySelectorAll('.sweep .plot')].map((plot) => plot.data.at(-1).type)")
    assert kinds == ["scatter", "heatmap", "parcoords"]
    cells = page.run("return document.querySelector('.sweep .map').data[0].z")
    assert [len(row) for row in cells] == [3, 3]
    assert "Selected: η = 1, ρ = 0.1" in page.text(".sweep .selection")
    page.run("Plotly.restyle(document.querySelector('.parallel'), {'dimensions[0].constraintrange': [[[0.5, 1.5]]]})")
    assert page.wait("return location.hash === '#picked=3+4+5'")


def test_bands_of_two_seeds_leave_the_curves_their_room(page, tmp_path):
    outcomes = {}
    for seed, value in ((0, 1.0), (1, 1.4)):  # Student's factor of two seeds is 12.7
        outcomes |= made.grid(lrs=(1.0,), rhos=(0.1,), seeds=(seed,))
        label = f"lr=1.0,rho=0.1,seed={seed}"
        outcomes[label] = made.outcome(outcomes[label].settings, value=value)
    write_page([made.sweep(tmp_path / "sweep", outcomes, VARIED)], tmp_path / "page.html")
    page.size(WIDE)
    page.open(tmp_path / "page.html", "#y-scale=linear&panels=0")
    page.draw_all()
    low, high = page.run("return document.querySelector('#charts .plot').layout.yaxis.range")
    own = page.run(f"return {TRACES}.filter((trace) => trace.mode === 'lines').flatMap((trace) => trace.y)")
    top = page.run(f"return {TRACES}.filter((trace) => trace.fill).flatMap((trace) => trace.y)")
    assert max(value for value in top if value is not None) > high
    assert high - low < 2.2 * (max(own) - min(own))
    assert "cut off at the axis" in page.text("#charts .note")
    page.run("document.querySelector('#charts .note button').click()")
    assert page.wait(f"return document.querySelector('#charts .plot').layout.yaxis.range[1] > {high}")
    assert page.run("return location.hash").endswith("whole=yes")
    page.run("document.querySelector('#charts .note button').click()")
    assert page.run("return document.querySelector('#charts .plot').layout.yaxis.range") == [low, high]
    page.keys("#charts .plot", "0")
    assert page.wait(f"return document.querySelector('#charts .plot').layout.yaxis.range[1] > {high}")


def test_intervals_of_differences_end_within_the_chart(page, folder):
    page.size(WIDE)
    page.open(folder / "sweep.html")
    page.draw_all()
    low, high = page.run("return document.querySelector('#difference-chart').layout.xaxis.range")
    reach = page.run("return document.querySelector('#difference-chart').data.flatMap((trace) => trace.x)")
    room = 0.03 * (high - low)
    assert low + room < min(reach)
    assert max(reach) < high - room


def test_directories_are_told_apart_in_words(page, tmp_path):
    arms = {f"arm{k}": made.outcome(replace(made.SETTINGS, rho=k / 10)) for k in range(5)}
    experiment = replace(made.EXPERIMENT, claims=())
    several = [made.run(tmp_path / name, arms, experiment=experiment) for name in ("first", "second")]
    write_page(several, tmp_path / "page.html")
    page.size(WIDE)
    page.open(tmp_path / "page.html")
    page.draw_all()
    assert page.text("#keys") == "Directories:firstsecond"
    colours = page.run("return [...document.querySelectorAll('#legend .swatch')].map((one) => one.style.background)")
    assert len(set(colours)) == len(colours) == 10


def test_a_saved_figure_is_opened_large_and_closed_by_keyboard(page, folder):
    page.open(folder / "run.html")
    page.keys("#figures .enlarge", "\ue007")
    assert page.run("return document.querySelector('#enlarged').open")
    assert page.run("const [a, b] = document.querySelectorAll('#figures img'); return a.src === b.src")
    page.keys("#enlarged button", "\ue007")
    assert not page.run("return document.querySelector('#enlarged').open")


def test_a_phone_is_told_what_a_finger_does_and_which_tables_go_on(page, folder):
    hints = "[...document.querySelectorAll('.by-touch, .by-mouse')]"
    shown = f"return {hints}.filter((one) => one.offsetWidth).map((one) => one.className)"
    page.size(SLIM)
    page.open(folder / "sweep.html")
    page.draw_all()
    assert page.run(shown) == ["by-touch"]
    assert page.run("return document.querySelector('#charts .plot').layout.dragmode") is False
    box = "document.querySelector('#table').parentElement"
    page.wait(f"return {box}.className === 'wide tall more-right'")
    page.run(f"{box}.scrollLeft = 9999")
    page.wait(f"return {box}.className === 'wide tall more-left'")
    page.size(WIDE)
    page.open(folder / "sweep.html")
    page.draw_all()
    assert page.run(shown) == ["by-mouse"]
    assert page.run("return document.querySelector('#charts .plot').layout.dragmode") == "zoom"


def test_on_a_phone_the_verdict_on_a_difference_is_in_sight(page, folder):
    page.size(SLIM)
    page.open(folder / "sweep.html")
    page.draw_all()
    cell = "document.querySelector('#difference-table tbody td')"
    assert page.run(f"return {cell}.textContent") in ("below", "above", "undecided")
    assert page.run(f"return {cell}.getBoundingClientRect().right") <= SLIM


def test_the_colours_of_parallel_axes_have_a_key(page, folder):
    page.size(WIDE)
    page.open(folder / "sweep.html")
    page.draw_all()
    line = "document.querySelector('.parallel').data[0].line"
    assert page.run(f"return [{line}.showscale, {line}.colorbar.title.text]") == [True, "training loss"]


@pytest.mark.parametrize(("value", "expected"), [(0.5, [0, 1]), (0.0, [-0.05, 1]), (-2.0, [-4, 0])])
def test_what_is_tied_everywhere_has_an_axis_of_its_own_size(page, tmp_path, value, expected):
    tied = {
        label: replace(one, records=[{**record, "loss": value} for record in one.records])
        for label, one in made.grid().items()
    }
    write_page([made.sweep(tmp_path / "tied", tied, VARIED)], tmp_path / "tied.html")
    page.size(WIDE)
    page.open(tmp_path / "tied.html")
    page.draw_all()
    assert page.run("return document.querySelector('.sweep .lines').layout.yaxis.range") == expected


def test_the_table_says_what_a_run_cost(page, folder):
    page.open(folder / "run.html", "#filter=gradients+%3E+40")
    heads, cells = (
        page.run(f"return [...document.querySelectorAll('#table {part} > *')].map((one) => one.textContent)")[-3:]
        for part in ("thead tr", "tbody tr")
    )
    assert heads == ["gradients", "training, s", "Status"]
    assert cells == ["80", "1", "done"]
    assert page.text("#count") == "1 of 2 rows"


def test_the_menus_fit_on_a_phone(page, folder):
    page.size(420)
    page.open(folder / "run.html")
    for menu in ("#results .menu", "#curves .menu"):
        page.run(f"document.querySelector('{menu}').open = true")
        box = page.run(f"return document.querySelector('{menu} .choices').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0
        assert box["right"] <= 420


def test_nothing_in_a_directory_is_markup(page, tmp_path):
    evil = '<script>window.harmed = 1</script><img src=x onerror="window.harmed = 2">'
    outcomes = {f"{evil}-{seed}": made.outcome(replace(made.SETTINGS, seed=seed), columns=(evil,)) for seed in (0, 1)}
    path = made.run(tmp_path / "run", outcomes, experiment=replace(made.EXPERIMENT, title=evil, arms={}, claims=()))
    config = (path / "config.json").read_text()
    for name in ("config.json", "about.json"):
        text = (path / name).read_text()
        (path / name).write_text(text.replace('"kind"', '"<script>window.harmed = 3</script>"'))
    assert config != (path / "config.json").read_text()
    write_page([path], tmp_path / "page.html")
    page.open(tmp_path / "page.html", "#panels=0+5&picked=0")
    page.draw_all()
    assert page.run("return window.harmed") is None
    assert page.text("h1") == evil
    assert "<script>window.harmed = 3</script>" in page.text("#settings")
    assert page.run("return document.querySelectorAll('main script, main img[onerror]').length") == 0
    assert evil in page.text("#charts")


def test_a_sweep_of_a_hundred_runs_is_small_and_light_to_draw(page, tmp_path):
    columns = tuple(f"measure_{number}" for number in range(8))
    outcomes = made.grid(
        lrs=(0.1, 0.2, 0.5, 1.0),
        rhos=(0.0, 0.05, 0.1, 0.2, 0.3),
        seeds=range(5),
        steps=range(0, 1000, 2),
        columns=columns,
    )
    assert len(outcomes) == 100
    path = made.sweep(tmp_path / "sweep", outcomes, VARIED)
    (path / "figures/large.png").write_bytes(b"\x89PNG" + bytes(900_000))
    (path / "figures/larger.png").write_bytes(b"\x89PNG" + bytes(3_000_000))
    write_page([path], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 8_000_000
    page.size(WIDE)
    page.open(tmp_path / "page.html")
    page.draw_all()
    assert page.run("return document.querySelectorAll('*').length") < 5000  # not some for each of 50,000 records
    assert page.logs()[0] == []
    assert "which would become too large: figures/larger.png" in page.text("#figures")
    assert "of up to 500 records" in page.text("#curves").lower()


def test_a_page_that_is_watched_loads_itself_anew(page, tmp_path):
    path = made.run(tmp_path / "run", {"sam": made.outcome(steps=(0, 5))}, finished=False)
    write_page([path], tmp_path / "page.html", reload_every=2)
    page.open(tmp_path / "page.html", "#y-scale=linear")
    page.draw_all()
    where = page.run("scrollTo(0, 99999); window.old = true; return scrollY")
    page.wait("return !window.old && document.documentElement.dataset.ready")
    assert page.wait("return scrollY") == where > 900
    assert page.run("return location.hash") == "#y-scale=linear"
    write_page([path], tmp_path / "page.html")
    page.wait("return document.querySelector('#watching') === null")
