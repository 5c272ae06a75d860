"""`elmo plot`: correct curves in a PNG, and in one HTML page that a browser shows without a network."""

import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.apply.watch.curves import read_curves, thin
from pipeline.apply.watch.plot import draw, names
from pipeline.cli import main
from pipeline.config.schema import ConfigError, WandbConfig
from pipeline.train.run_dir.tracking import Tracker

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def log_run(folder: Path, start: float = 500.0, steps: int = 40, tokens_per_second: float = 1000.0) -> Path:
    """Log a run of 100 tokens a step with metrics every 2nd step and a validation every 10th."""
    folder.mkdir(parents=True)
    tracker = Tracker(folder, "run", WandbConfig(mode="disabled"), {})
    for step in range(2, steps + 1, 2):
        perplexity = 20 + start * math.exp(-step / 15)
        metrics = {"train/tokens": step * 100, "train/sampled_perplexity": perplexity / 4}
        tracker.log(
            metrics | {"speed/tokens_per_second": tokens_per_second, "train/gradient_norm": start / 100 / step}, step
        )
        if step % 10 == 0:
            values = {"val/perplexity": perplexity, "val/perplexity_forward": perplexity * 1.1,
                      "val/perplexity_backward": perplexity / 1.1}  # fmt: skip
            tracker.log(values | {"train/tokens": step * 100}, step)
    return folder


def test_curves_are_drawn_against_steps_tokens_and_hours_of_training(tmp_path: Path) -> None:
    run = read_curves(log_run(tmp_path / "run"))
    held_out = run.of("val/perplexity", "tokens")
    assert [x for x, _ in held_out] == [1000, 2000, 3000, 4000] and held_out == sorted(held_out)
    assert [x for x, _ in run.of("val/perplexity")] == [10, 20, 30, 40]
    hours = dict(run.of("train/gradient_norm", "hours"))
    assert max(hours) == pytest.approx(40 * 100 / 1000 / 3600) and hours[max(hours)] == pytest.approx(5 / 40)


def test_the_time_of_a_step_that_logged_no_speed_is_interpolated(tmp_path: Path) -> None:
    folder = log_run(tmp_path / "run", steps=8)
    Tracker(folder, "run", WandbConfig(mode="disabled"), {}).log({"val/perplexity": 30.0, "train/tokens": 500}, 5)
    assert read_curves(folder).hours[5] == pytest.approx(0.5 / 3600)


def test_a_long_curve_is_thinned_to_means_and_keeps_its_end() -> None:
    points = [(float(i), float(i % 2)) for i in range(20_000)]
    thinned = thin(points)
    assert len(thinned) <= 1502 and thinned[-1] == points[-1]
    assert all(abs(y - 0.5) < 0.08 for _, y in thinned[:-2])
    assert thin(points[:100]) == points[:100]


def test_every_panel_shows_every_run_against_tokens_and_hours(tmp_path: Path) -> None:
    runs = [read_curves(log_run(tmp_path / name, start), name) for name, start in (("one", 500), ("two", 300))]
    figure = draw(runs)
    labels = [(axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes]
    rows = ("perplexity", "tokens a second", "gradient norm")
    assert labels == [(row, column) for row in rows for column in ("tokens", "hours of training")]
    assert [len(axes.lines) for axes in figure.axes] == [8, 8, 2, 2, 2, 2]  # four kinds of perplexity for each run
    both = figure.axes[0].lines[3]
    assert list(zip(*both.get_data(), strict=True)) == runs[0].of("val/perplexity", "tokens")


def test_curves_are_drawn_from_a_log_whose_last_line_is_cut_short(tmp_path: Path) -> None:
    lines = [f'{{"trainer/global_step": {n}, "train/sampled_perplexity": {100 / n}}}' for n in range(1, 9)]
    lines += ['{"trainer/global_step": 8, "val/perplexity": 300.0}', '{"trainer/global_st']  # cut by a kill
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert len(read_curves(tmp_path).of("train/sampled_perplexity")) == 8
    for name in ("curve.png", "curve.html"):
        assert main(["plot", str(tmp_path), f"output={tmp_path / name}"]) == 0


def test_a_png_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = log_run(tmp_path / "run")
    assert main(["plot", str(run), f"output={tmp_path / 'new' / 'curves.png'}"]) == 0
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "curves.png: run" in capsys.readouterr().out


class Page(HTMLParser):
    """Collect the open tags, the text, and every address that the page would fetch."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.fetches: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.open += [tag] if tag not in self.VOID else []
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and not (value or "").startswith("#"):
                self.fetches.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def html_page(tmp_path: Path) -> Path:
    one, two = log_run(tmp_path / "one"), log_run(tmp_path / "two <&>", start=300, tokens_per_second=700)
    folders = [str(one), str(two)]
    output = tmp_path / "page.html"
    assert main(["plot", *folders, f"output={output}"]) == 0
    return output


def test_the_page_is_complete_and_fetches_nothing(html_page: Path) -> None:
    page = Page()
    text = html_page.read_text(encoding="utf-8")
    page.feed(text)
    assert not page.open and not page.fetches
    assert {"table", "h1", "style"} <= set(page.seen)
    assert (
        "Content-Security-Policy\" content=\"default-src 'none'; img-src data:;" in text
    )  # browsers then fetch nothing
    assert len(text) < 2_000_000, "so that it loads fast"
    shown = " ".join(" ".join(page.text).split())
    assert "Training of one, two <&>" in shown and "held out, backward" in shown and "hours of training" in shown
    assert text.count('"name":"HoverTool"') == 9  # three panels, each against tokens, hours and steps
    assert f"{20 + 500 * math.exp(-40 / 15):,.2f}" in shown  # the last held-out perplexity, in the table


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here; as root on Debian: sh tests/install_browser.sh"
)


def browse(page: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Open a page in a browser without a network."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1200,1900", "--host-resolver-rules=MAP * ~NOTFOUND", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


# Move the mouse down through the first panel, and write the text of all tooltips that appear into the title.
MOVE_THE_MOUSE = """<script>
const inside = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? inside(e.shadowRoot) : [])]);
const named = name => inside(document).filter(e => String(e.className).includes(name));
const move = (canvas, box, y, shown) => {
  const place = {clientX: box.left + 0.6 * box.width, clientY: y, pointerType: "mouse", isPrimary: true, pointerId: 1};
  canvas.dispatchEvent(new PointerEvent("pointermove", {...place, bubbles: true, composed: true}));
  document.title = shown = shown + named("bk-tooltip").map(e => e.textContent).join(" ");
  if (y < box.bottom) setTimeout(() => move(canvas, box, y + 3, shown), 40);
};
setTimeout(() => {
  const canvas = named("bk-events")[0], box = canvas.getBoundingClientRect();
  move(canvas, box, box.top, "");
}, 3000);
</script></body>"""


@pytest.mark.slow
@needs_browser
def test_a_real_browser_shows_the_value_under_the_mouse(html_page: Path, tmp_path: Path) -> None:
    page = tmp_path / "moved.html"
    page.write_text(html_page.read_text("utf-8").replace("</body>", MOVE_THE_MOUSE), "utf-8")
    title = browse(page, tmp_path, "--virtual-time-budget=25000", "--dump-dom").stdout.partition("</title>")[0]
    assert re.search(r"one\s+tokens:\s+[\d,]+\s+perplexity:\s+\d", title), title[-500:]
    assert re.search(r"two &lt;&amp;&gt;\s+tokens:", title), title[-500:]


@pytest.mark.slow
@needs_browser
def test_a_real_browser_shows_the_curves_of_both_runs(html_page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    done = browse(html_page, tmp_path, f"--screenshot={shot}")
    assert shot.exists(), done.stderr
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3]
    for colour in ("C0", "C1"):
        near = np.abs(pixels - np.array(to_rgb(colour))).max(axis=-1) < 0.02
        rows, columns = np.nonzero(near)
        assert len(rows) > 500 and np.ptp(rows) > 400 and np.ptp(columns) > 700, f"{colour} is not all over the page"


@pytest.mark.parametrize("name", ["<script>alert(1)<", "<!--<script>", "a$\\frac$ & {0}", "$a_b$ %s"])
def test_the_name_of_a_run_is_text_on_the_page_and_no_script(name: str, html_page: Path, tmp_path: Path) -> None:
    log_run(tmp_path / name)
    assert main(["plot", str(tmp_path / name), f"output={tmp_path / 'plot.html'}"]) == 0
    shown = (tmp_path / "plot.html").read_text("utf-8")
    found, plain = Page(), Page()
    found.feed(shown)
    plain.feed(html_page.read_text("utf-8"))
    assert found.seen.count("script") == plain.seen.count("script") and "script" not in found.open
    assert f"<td>{html.escape(name)}</td>" in shown and f"Training of {name}" in "".join(found.text)


def test_runs_of_the_same_name_are_distinguished_by_their_paths() -> None:
    assert names(["a/run", "b/other"]) == ["run", "other"]
    assert names(["a/run", "b/run"]) == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=x.png"], "takes a run folder"),
        (["absent", "output=x.png"], "absent has no metrics to draw"),
        (["absent", "output=x.pdf"], "must name a file that ends with .png or .html"),
        (["absent"], "must name a file that ends with .png or .html"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *arguments]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_run_without_metrics_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no metrics to draw"):
        read_curves(tmp_path)
