"""`elmo report`: one page of everything that was found, which a browser shows without a network, also on a phone."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.tasks.report import figures, probe_tables, tables
from pipeline.tasks.report.findings import find_results
from pipeline.tasks.report.points import points_of
from tests.tasks.report import results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here; as root on Debian: sh tests/install_browser.sh"
)
TITLES = ("Table 1", "Table 2", "Table 3", "Sample efficiency", "Learned weights", "Word senses", "Parts of speech",
          "Minimal pairs", "Nearest neighbours", "Fine-tuning")  # fmt: skip
HOSTILE = ("<script>alert(1)</script>", 'a"onload="x', "a$\\frac$ & {0} %s", "=1+1", "名前")


class Page(HTMLParser):
    """Tags, text, alternative texts, and what the page would fetch or save."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.alts: list[str] = []
        self.fetches: list[str] = []
        self.files: dict[str, str] = {}
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {name: value or "" for name, value in attrs}
        self.attributes |= found.keys()
        for name in ("src", "href"):
            target = found.get(name, "#")
            if target.startswith("data:text/csv"):
                self.files[found["download"]] = base64.b64decode(target.partition(",")[2]).decode()
            elif not target.startswith(("#", "data:image/svg+xml;base64,")):
                self.fetches.append(target)
        self.alts += [found["alt"]] if "alt" in found else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = results.write_all(tmp_path_factory.mktemp("report"))
    (folder / "other.json").write_text("[1, 2]")  # of another program, as the next
    (folder / "broken.json").write_text("{")
    assert main(["report", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report" / "report.html").read_text("utf-8")


def test_the_page_has_every_part_and_needs_nothing_else(folder: Path, html: str) -> None:
    page = Page(html)
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert [title for title, wanted in zip(titles, TITLES, strict=True) if not title.startswith(wanted)] == []
    assert not page.fetches and "script" not in page.tags
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:;" in html
    assert len(html) < 2_000_000, "so that it loads fast"
    drawn = {path.stem for path in (folder / "report").glob("*.png")}
    assert drawn == {"sample-efficiency-1", "learned-weights", "word-senses", "parts-of-speech", "minimal-pairs"}
    assert len(page.alts) == len(drawn) and all(page.alts)


def test_every_table_and_figure_can_be_saved_as_csv(html: str) -> None:
    files = {name: list(csv.reader(io.StringIO(text))) for name, text in Page(html).files.items()}
    assert len(files) == 11  # two of neighbours
    assert files["table-1.csv"][0][:4] == ["task", "baseline", "baseline deviation", "baseline seeds"]
    by_task = {row[0]: row for row in files["table-1.csv"]}
    assert [float(value) for value in by_task["SNLI"][1:]] == pytest.approx([88.0, 0.3, 3, 88.7, 0.3, 3])
    assert [float(value) for value in files["sample-efficiency-1.csv"][1][:2]] == pytest.approx([0.01, 35])
    assert [float(value) for value in files["learned-weights.csv"][1][1:]] == pytest.approx(
        [0.21, 0.70, 0.09, 0.36, 0.34, 0.30]
    )
    assert files["word-senses.csv"][0] == ["layer", "general", "cove"] and files["word-senses.csv"][3] == [
        "layer 2", "69.0", "64.7",
    ]  # fmt: skip
    assert files["minimal-pairs.csv"][:2] == [
        ["source", "field", "forward", "backward", "both", "pairs", "unknown"],
        ["general", "morphology", "85.0", "83.0", "88.0", "1000", "10"],
    ]  # fmt: skip
    assert all(len(row) == len(rows[0]) for rows in files.values() for row in rows)


def test_tables_hold_the_mean_over_seeds_and_the_gain(folder: Path) -> None:
    points = [p for name, runs in find_results([str(folder)]).studies.items() for p in points_of(name, runs)]
    one, two, three = tables.table_1(tables.without_repeats(points)), tables.table_2(points), tables.table_3(points)
    assert one is not None and two is not None and three is not None
    assert one.header == ["score on dev", "baseline", "with ELMo", "gain", "error reduction"]
    assert ["SQuAD, F1", "81.1 ± 0.3", "85.8 ± 0.3", "+4.7", "25 %"] in one.rows
    assert two.header == ["score on dev", "baseline", "last layer", "all layers, λ = 1", "all layers, λ = 0.001"]
    assert two.rows == [["SNLI, F1", "88.1 ± 0.3", "89.1 ± 0.3", "89.3 ± 0.3", "89.5 ± 0.3"]]
    assert three.rows == [["SRL, F1", "84.7 ± 0.3", "84.3 ± 0.3", "80.9 ± 0.3"]]
    (efficiency,) = tables.efficiency(points)
    assert efficiency.table.rows[0] == ["1 %", "35.0 ± 0.3", "800", "60.0 ± 0.3", "800"]


def test_a_study_of_sample_efficiency_does_not_repeat_tasks_of_another_study(folder: Path) -> None:
    points = [p for name, runs in find_results([str(folder)]).studies.items() for p in points_of(name, runs)]
    alone = [p for p in points if p.study == "efficiency"]
    repeated, once, only = (tables.table_1(p) for p in (points, tables.without_repeats(points), alone))
    assert repeated is not None and [row[0] for row in repeated.rows].count("SRL (efficiency), F1") == 1
    assert once is not None and [row[0] for row in once.rows].count("SRL, F1") == 1
    assert not any("efficiency" in row[0] for row in once.rows)
    assert (
        tables.without_repeats(alone) == alone
        and only is not None
        and only.rows[0][1:3] == ["81.4 ± 0.3", "84.6 ± 0.3"]
    )


def test_a_study_that_has_only_its_baseline_yet_has_a_row() -> None:
    ner = results.run("ner", 1, 80, elmo_placement="none")
    layers = [results.run("snli", 1, 80, elmo_placement="none"), results.run("snli", 1, 82, elmo_layers="top")]
    complete = [results.run("pos", 1, 80 + n, elmo_placement=place) for n, place in enumerate(("none", "default"))]
    alone, beside = (
        tables.table_1(points_of("tasks", [ner, *layers])),
        tables.table_1(points_of("tasks", [ner, *complete])),
    )
    assert alone is not None and alone.rows == [["NER, F1", "79.7"]]
    assert beside is not None and beside.rows[0] == ["NER, F1", "79.7", "–", "–", "–"]
    assert len(beside.rows) == 2


def test_small_shares_with_more_epochs_are_points_of_the_same_curve() -> None:
    shares = ({"training_share": 0.1, "training_max_epochs": 20, "training_patience": 5}, {"training_share": 1})
    studies = [[results.run(task, 1, 80, **share) for share in shares] for task in ("snli", "srl")]
    points = [point for n, runs in enumerate(studies) for point in points_of(f"study {n}", runs)]
    found = tables.efficiency(points)
    assert [one.task for one in found] == ["SNLI", "SRL"]
    assert [[p.varied.share for p in one.curves["with ELMo"]] for one in found] == [[0.1, 1]] * 2


def test_other_encoders_stand_beside_elmo() -> None:
    encoders = ("models/general", "runs/cove/model")
    runs = [results.run("snli", 1, 80, elmo_placement="none", elmo_checkpoint=encoders[0])]
    runs += [
        results.run("snli", 1, 82 + n, elmo_placement="default", elmo_checkpoint=e) for n, e in enumerate(encoders)
    ]
    runs += [results.run("snli", 1, 81 + n, elmo_layers="top", elmo_checkpoint=e) for n, e in enumerate(encoders)]
    runs += [results.run("snli", 1, 84 + n, elmo_l2=1.0, elmo_checkpoint=e) for n, e in enumerate(encoders)]
    points = points_of("study", runs)
    one, two = tables.table_1(points), tables.table_2(points)
    assert one is not None and one.header[1:4] == ["baseline", "with general", "with cove"]
    assert one.rows[0][1:4] == ["79.7", "81.7", "82.7"]
    assert two is not None and [row[0] for row in two.rows] == ["SNLI (general), F1", "SNLI (cove), F1"]


def test_what_was_not_found_is_named_with_its_command(tmp_path: Path) -> None:
    results.write_finetuning(tmp_path / "run", is_comparable=False)
    assert main(["report", str(tmp_path), f"output={tmp_path / 'out'}"]) == 0
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "72.1 → 16.8 *" in html and "<li>elmo study configs/studies/layers.yaml</li>" in html
    assert not list((tmp_path / "out").glob("*.png"))


def test_probes_of_the_same_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    results.write_probes(tmp_path / "a")
    results.write_probes(tmp_path / "b", bilm="runs/general")
    scores = probe_tables.pos_scores(find_results([str(tmp_path)]))
    assert list(scores)[::2] == ["general (a/pos-bilm.json)", "general (b/pos-bilm.json)"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_is_text_on_the_page(text: str, tmp_path: Path) -> None:
    name = text.replace("/", "_")
    results.write_studies(tmp_path / name)
    results.write_probes(tmp_path / name, bilm=text)
    results.write_finetuning(tmp_path / name)
    sentence = results.occurrence(1.0, f"{text} play {text}", place=text)
    content = {"query": sentence, "neighbors": [sentence], "searched": 1, "is_approximate": False}
    (tmp_path / "n.json").write_text(json.dumps(content))
    assert main(["report", str(tmp_path)]) == 0
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert "script" not in page.tags and "onload" not in page.attributes and not page.fetches
    assert any(text in found for found in page.text)
    cells = [cell for content in page.files.values() for row in csv.reader(io.StringIO(content)) for cell in row]
    assert not any(cell.startswith("=") for cell in cells)
    assert any(text in cell for cell in cells)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.json", [{"task": "snli"}], "results.json"),
        ("results.json", [results.run("snli", 1, float("nan"))], "results.json"),
        ("results.json", "text", "results.json"),
        ("pos.json", {"probe": "pos", "source": "a", "layers": [{"layer": 3}]}, "pos.json"),
        ("finetune.json", {"after": 3}, "finetune.json"),
        ("n.json", {"query": 1, "neighbors": [], "searched": 3}, "n.json"),
        (
            "n.json",
            {"query": {"cosine": 1.0, "place": "", "words": ["a"], "position": 1}, "neighbors": [], "searched": 3},
            "the position of a word is beyond its sentence",
        ),
    ],
)
def test_a_damaged_result_is_one_sentence(
    name: str, content: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and "delete it, or make it again" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "elmo report takes one or more folders"),
        (["absent"], "absent is no folder"),
        (["."], ". holds no results"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_colours_differ_for_colour_blind_readers_too() -> None:
    """Okabe and Ito's colours, simulated for red-blind and green-blind eyes (Viénot et al. 1999)."""
    from matplotlib.colors import to_rgb

    linear = np.array([to_rgb(colour) for colour in figures.COLOURS[:4]]) ** 2.2
    for red, green in ((0.11238, 0.88762), (0.29275, 0.70725)):
        seen = linear.copy()
        seen[:, 0] = seen[:, 1] = red * linear[:, 0] + green * linear[:, 1]
        shown = seen ** (1 / 2.2)
        distances = np.abs(shown[:, None] - shown[None]).sum(-1) + np.eye(4)
        assert distances.min() > 0.1, distances


def browse(page: Path, folder: Path, *arguments: str) -> str:
    """Open a page in a browser that reaches no network; return its DOM."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=200).stdout


# The page in a frame of a phone's width tells its own width, and that of its pictures and text, to the page around it.
MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  const images = [...document.images], root = document.documentElement;
  parent.postMessage([innerWidth, root.scrollWidth, images.filter(i => i.complete && i.naturalWidth > 0).length,
    Math.min(...images.map(i => i.width)), document.querySelectorAll("a[download]").length].join(" "), "*");
}, 500));</script></body>"""
FRAME = """<body><iframe src="measured.html" width="{width}" height="800"></iframe>
<script>addEventListener("message", event => document.title = event.data);</script></body>"""


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_a_real_browser_shows_the_whole_page_at_the_width_of_a_phone(width: int, html: str, tmp_path: Path) -> None:
    allowed = html.replace("default-src 'none';", "script-src 'unsafe-inline'; default-src 'none';")
    (tmp_path / "measured.html").write_text(allowed.replace("</body>", MEASURE), "utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    dom = browse(tmp_path / "frame.html", tmp_path, "--window-size=1300,900", "--dump-dom")
    (title,) = re.findall(r"<title>(.*?)</title>", dom)
    inner, scrolled, images, narrowest, links = map(float, title.split())
    assert inner == width and scrolled <= inner  # wide tables scroll, the page does not
    assert images == 5 and narrowest > 0.85 * min(width, 560) and links == 11


@pytest.mark.slow
@needs_browser
def test_a_real_browser_draws_figures_in_their_colours(html: str, folder: Path, tmp_path: Path) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    browse(folder / "report" / "report.html", tmp_path, "--window-size=900,6000", f"--screenshot={shot}")
    pixels = imread(shot)[..., :3]
    for colour in figures.COLOURS[:2]:
        rows, _ = np.nonzero(np.abs(pixels - np.array(to_rgb(colour))).max(axis=-1) < 0.02)
        assert len(rows) > 500 and np.ptp(rows) > 1000, f"{colour} is not all over the page"
