"""Run the commands and Python of docs/guide/ in the order of each page; compare what they print with the page.

watch.md has a test of its own (tests/apply/test_watching.py); the commands of slurm.md, one-billion-words.md and
troubleshooting.md are checked by tests/test_docs.py. tests/test_wheel.py, tests/test_containers.py and
tests/train/test_torchrun.py are those of install.md, containers.md and torchrun.md.
"""

import gzip
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from data_prep.prepare import prepare
from pipeline import cli
from pipeline.model.formats.pretrained import save_pretrained
from tests import pages
from tests.budget.laws import write_law
from tests.model import tiny
from tests.tasks import training
from tests.tasks.cove import parallel
from tests.tasks.probes import data as probes

# Sizes and steps that a test can afford. Everything else in a command runs as it is written.
TRAINING = ["data.lanes=4", "data.window=8", "data.workers=0", "train.max_steps=4", "train.threads=1",
            "train.accelerator=cpu", "wandb.mode=offline"]  # fmt: skip
OVERRIDES = {
    "prep": ["workers=1"],
    "pretrain": [*TRAINING, "model.filters=[[1,4],[2,4]]", "model.lstm_dim=8", "model.projection_dim=4",
                 "data.vocab_min_count=1", "softmax.num_samples=4"],
    "plan": [*TRAINING, "model.filters=[[1,4],[2,4]]", "model.lstm_dim=8", "model.projection_dim=4",
             "data.vocab_min_count=1", "softmax.num_samples=4", "configs=[nano,micro]", "seconds=0.1", "law=law.json"],
    "task": ["training.max_epochs=2", "training.accelerator=cpu", "training.threads=1", "network.hidden=[4]",
             "wandb.mode=disabled", "elmo.cache_dir=layers"],
    "cove": ["tokenize=false", "training.accelerator=cpu", "training.threads=1",
             "network.hidden=4", "network.target_dim=4", "wandb.mode=disabled"],
    "probe": ["accelerator=cpu", "threads=1"],
    "finetune": [*TRAINING, "data.lanes=8", "data.vocab_min_count=1", "softmax.num_samples=4"],
}  # fmt: skip
# Lines that are printed only for a larger text, or for a source with general text.
NOT_IN_A_TEST = {"outside", "general", "..."}
MADE = {
    "prepare": {"data/corpus/index.json", "data/articles/index.json"},
    "object-stores": {"runs/far/metrics.jsonl"},
    "pretrain": {"runs/first/metrics.jsonl", "runs/first/perplexity.json", "models/first/config.json",
                 "models/first-allennlp/weights.hdf5"},
    "finetune": {"runs/domain/finetune.json", "runs/mixed/finetune.json", "runs/words/finetune.json"},
    "pytorch": {"models/tagger-elmo/config.json"},
    "embed": {"corpus.h5", "top.npz", "mix.h5", "corpus.safetensors", "array.h5", "scores.jsonl", "words.tsv"},
    "tasks": {"runs/ner-elmo/result.json", "runs/small/model/config.json", "labelled.conll"},
    "cove": {"runs/cove/model/config.json", "runs/ner-cove/result.json"},
    "probes": {"sentences.txt", "vectors.h5"},
    "pipelines": {"models/spacy-elmo/elmo/model/config.json"},
    "moving": {"models/theirs/config.json", "models/mine/vocabulary.txt", "models/zht/words.txt", "zht.h5"},
}  # fmt: skip
WORDS = ["<S>", "</S>", "<UNK>", "The", "bank", "."]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a reader's working folder: texts, datasets, a trained model, weights of bilm-tf."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path / "cache"))
    Path("configs").symlink_to(pages.ROOT / "configs")
    sentences = [f"The bank number {n % 13} of the river lends {n % 7} boats .\n" for n in range(600)]
    for folder in ("corpus", "articles", "runs"):
        Path(folder).mkdir()
    for part in range(2):
        with gzip.open(f"corpus/part-{part}.txt.gz", "wt") as file:
            file.writelines(sentences[part::2])
    Path("articles/one.txt").write_text("Mr. Smith's bank lends. It doesn't pay!\n\n" * 50)
    Path("corpus.txt").write_text("The bank lends .\n\nHe sat on the bank of the river .\n" + "The bank failed .\n" * 4)
    Path("sentences.txt").write_text("The bank lends .\n\nHe failed .\n")
    write_law(Path("law.json"))
    Path("other.txt").write_text("".join(sentences[:50]))
    return tmp_path


def make_what_earlier_pages_make(page: str) -> None:
    """Make small versions of what earlier pages make."""
    if page == "cove":
        parallel.write_text(Path(), "train", 40, 1)
        parallel.write_text(Path(), "val", 10, 2)
    if page in ("tasks", "cove"):
        for name in ("train.conll", "dev.conll", "new.conll"):
            training.write_columns(Path(name), 12, len(name))
        Path("glove.100d.txt").write_text("new 0.5 -1.0 0.25\nlima 1.0 0.5 0.125\ndog -1.0 0.5 0.25\n")
    if page == "probes":
        for name in ("train.conll", "dev.conll"):
            training.write_columns(Path(name), 12, len(name))
        probes.write_senses(Path())
        probes.write_pairs(Path("blimp.jsonl"))
    if page in ("finetune", "pytorch", "embed", "tasks", "probes", "pipelines"):
        for folder in ("models/first", "runs/first"):
            save_pretrained(folder, tiny.bilm(tiny.config(), len(WORDS)), words=WORDS, counts=np.arange(6, 0, -1))
    if page == "pipelines":
        import_module("pipeline.integrations.spacy")  # spaCy itself imports it, by the entry point of an installation
    if page in ("finetune", "pretrain"):
        Path("text.txt").write_text("".join(f"The river number {n % 7} has {n % 5} banks .\n" for n in range(199)))
        for name in ("data/corpus", "data/domain"):
            prepare(["text.txt"], name, heldout=0.1, workers=1, seed=len(name), show_progress=False)
    if page == "moving":
        save_pretrained("models/source", tiny.bilm(tiny.config(), len(WORDS)), words=WORDS, counts=np.arange(6, 0, -1))
        assert cli.main(["export", "checkpoint=models/source", "output=theirs", "format=allennlp"]) == 0
        for name in ("options.json", "weights.hdf5", "vocab.txt"):
            (Path("theirs") / name).rename(name)
        shutil.copytree(pages.ROOT / "tests/model/many_langs/words", "zht.model")


@pytest.mark.parametrize("page", [pytest.param(p, marks=pytest.mark.slow) if p == "pretrain" else p for p in MADE])
def test_the_commands_of_a_page_run_in_order_and_print_what_it_shows(
    page: str, desk: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if page == "object-stores":
        request.getfixturevalue("store").ask("PUT", "/my-bucket")
    make_what_earlier_pages_make(page)
    path = pages.ROOT / "docs" / "guide" / f"{page}.md"
    for block in pages.blocks(path):
        if block.language == "python":
            exec(compile(block.body, str(path), "exec"), {})
        for command in pages.commands(block.body) if block.language == "console" else []:
            capfd.readouterr()
            assert run(command.words) == 0, command.words
            printed = capfd.readouterr()
            missing = pages.labels(command.output) - pages.labels(f"{printed.out}\n{printed.err}".splitlines())
            assert missing <= NOT_IN_A_TEST, f"{command.words} does not print {missing}: {printed}"
    assert not [name for name in MADE[page] if not (desk / name).exists()]
    if page == "pretrain":
        assert json.loads((desk / "runs/first/perplexity.json").read_text())["step"] == 4


def run(words: list[str]) -> int:
    """Run a command of elmo as written, with the overrides added."""
    program, command, *arguments = words
    assert program == "elmo", words
    inspects = command == "prep" and "=" not in arguments[0]
    return cli.main([command, *arguments, *([] if inspects else OVERRIDES.get(command, []))])


def test_every_page_of_the_guide_is_tested() -> None:
    elsewhere = {"watch", "slurm", "one-billion-words", "troubleshooting", "install", "containers", "torchrun"}
    assert {path.stem for path in pages.GUIDE} == MADE.keys() | elsewhere
    assert all(
        pages.code(path, "console") for path in pages.GUIDE if path.stem in MADE.keys() - {"pytorch", "pipelines"}
    )
