"""`elmo report`: all results under some folders as one page and its figures as PNG files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from pipeline.config.watch import ReportConfig
from pipeline.tasks.report import figures, probe_tables, tables
from pipeline.tasks.report.findings import Findings, find_results
from pipeline.tasks.report.page import Picture, Section, data_link, neighbors, neighbors_table, page
from pipeline.tasks.report.points import Point, encoder_names, points_of
from pipeline.tasks.report.tables import Table

PAGE = "report.html"
_SEEDS = "Mean and standard deviation over seeds; a score without ± is of one seed."
_LAYER_0 = "Layer 0 is a word's vector without its context."
_STUDY = "elmo study configs/studies/{}.yaml"


@dataclass(frozen=True)
class Report:
    path: Path
    titles: list[str]
    pictures: list[Path]

    def __str__(self) -> str:
        found = "\n".join(f"  {title}" for title in self.titles)
        return f"{self.path}: {len(self.titles)} parts, {len(self.pictures)} figures as PNG beside it\n{found}"


def report(config: ReportConfig) -> Report:
    """Write the page and the PNG files. Raises ConfigError, DataError."""
    findings = find_results(config.runs)
    output = local_path(config.output, "output") if config.output else local_path(config.runs[0]) / "report"
    found = list(_sections(findings))
    sections = [section for section, _ in found if section is not None]
    missing = [what for section, what in found if section is None]
    lead = f"Made by elmo report {' '.join(config.runs)}. Scores are in percent."
    output.mkdir(parents=True, exist_ok=True)
    pictures = []
    for picture in (picture for section in sections for picture in section.pictures):
        pictures.append(output / f"{picture.name}.png")
        write_bytes(pictures[-1], picture.png)
    write_bytes(output / PAGE, page("What the layers are worth", lead, sections, missing).encode())
    return Report(output / PAGE, [section.title for section in sections], pictures)


def _sections(findings: Findings) -> Iterator[tuple[Section | None, str]]:
    """Yield each part of the page, None where nothing was found, and what makes it."""
    names = encoder_names(run for runs in findings.studies.values() for run in runs)
    points = [point for study, runs in findings.studies.items() for point in points_of(study, runs, names)]
    yield from _studies(points)
    scores = probe_tables.wsd_scores(findings)
    text = f"F1 of the nearest sense, without SemEval-2007 unless a set is named. {_LAYER_0}"
    yield _scores("Word senses by layer", text, "word-senses", scores, "F1 (%)"), "elmo probe wsd"
    scores, text = (
        probe_tables.pos_scores(findings),
        f"Accuracy of a linear softmax layer on test, or on dev where that is named. {_LAYER_0}",
    )
    yield _scores("Parts of speech by layer", text, "parts-of-speech", scores, "accuracy (%)"), "elmo probe pos"
    pairs = probe_tables.pair_scores(findings)
    table = probe_tables.pair_table(findings)
    text = (
        "Share of pairs in which the good sentence is the more probable one: forward, backward, and by both together, "
        "which the bars show; the dashed line is guessing. Unknown: pairs with a word outside the vocabulary; they say "
        "little."
    )
    drawn = [_picture("minimal-pairs", figures.fields(pairs), "Bars of the shares in the table")] if table else []
    yield _section("Minimal pairs by field", text, [table], drawn), "elmo probe pairs"
    yield _neighbors(findings), "elmo neighbors output=FILE.json"
    text = "Held-out text, before and after. A star: the vocabularies differ, so that only bits a character compare."
    yield _section("Fine-tuning", text, [probe_tables.finetunings(findings)]), "elmo finetune"


def _studies(points: Sequence[Point]) -> Iterator[tuple[Section | None, str]]:
    at_own_settings = tables.without_repeats(points)
    text = (
        f"The same network with and without the layers, on dev. {_SEEDS} Error reduction: the gain in percent of what "
    )
    text += "the baseline lacks to 100."
    table = tables.table_1(at_own_settings)
    yield _section("Table 1: what the layers are worth", text, [table]), _STUDY.format("tasks")
    text = f"The last layer alone, and learned mixes of all layers, on dev. {_SEEDS}"
    yield _section("Table 2: which layers", text, [tables.table_2(points)]), _STUDY.format("layers")
    text = f"Where the layers enter the network, on dev. {_SEEDS}"
    yield _section("Table 3: which place", text, [tables.table_3(points)]), _STUDY.format("placement")
    found = tables.efficiency(points)
    text = f"Score on dev, and updates until the best one. Bands: from the lowest to the highest seed. {_SEEDS}"
    drawn = [
        _picture(one.table.name, figures.curves(one), f"Curves of the scores in the table, {one.task}") for one in found
    ]
    section = _section("Sample efficiency", text, [one.table for one in found], drawn)
    yield section, _STUDY.format("sample_efficiency")
    table = tables.weights(at_own_settings)
    text = "Weight of each layer in the learned mix, by the place where it enters; each place's add up to 1. Mean over "
    text += f"seeds. {_LAYER_0} Hatched: below 1/3; dotted: above 2/3."
    alt = "Heat map of the weights in the table"
    drawn = [_picture("learned-weights", figures.heat_map(table), alt)] if table else []
    yield _section("Learned weights", text, [table], drawn), _STUDY.format("tasks")


def _section(
    title: str, text: str, found: Sequence[Table | None], pictures: Sequence[Picture] = (), body: str = ""
) -> Section | None:
    """Return a section, None without a table."""
    there = [table for table in found if table is not None]
    return Section(title, text, pictures, there, body) if there else None


def _scores(title: str, text: str, name: str, scores: probe_tables.Scores, ylabel: str) -> Section | None:
    table = probe_tables.by_layer(name, scores)
    drawn = [_picture(name, figures.layers(scores, ylabel), "Lines of the scores in the table")] if table else []
    return _section(title, text, [table], drawn)


def _neighbors(findings: Findings) -> Section | None:
    if not findings.neighbors:
        return None
    parts = []
    for number, found in enumerate(findings.neighbors.values(), 1):
        table = neighbors_table(f"neighbours-{number}", found)
        parts.append(f"{neighbors(found)}<p>{data_link(table)}</p>")
    text = "The occurrences of a word whose vectors are nearest to that of the marked word, by cosine."
    return Section("Nearest neighbours in context", text, body="\n".join(parts))


def _picture(name: str, figure: Any, alt: str) -> Picture:
    return Picture(name, figures.render(figure, "svg"), figures.render(figure, "png"), alt)
