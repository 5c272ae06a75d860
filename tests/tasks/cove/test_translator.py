"""The translation model against its equations in NumPy, and its text against faults."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset.files import DataError
from pipeline.config.cove import CoveConfig, CoveNetworkConfig
from pipeline.config.schema import ConfigError
from pipeline.config.task_networks import EmbedderConfig
from pipeline.tasks.cove.parallel_text import ParallelText, Translation
from pipeline.tasks.cove.translator import BEGIN, END, TranslationBatch, Translator
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.sequences import UNKNOWN, Tables, choose_words
from tests.tasks.cove import numpy_translator

PAIRS = [
    Translation(("the", "old", "dog", "runs"), ("der", "alte", "hund", "rennt")),
    Translation(("a", "cat"), ("eine", "katze", "eine", "katze", "eine")),
    Translation(("unknown",), ("der",)),
    Translation(("dog", "sees", "the", "red", "river", "and", "runs"), ("hund", "sieht")),
]
KNOWN = {word: row for row, word in enumerate(("the", "old", "dog", "runs", "a", "cat", "sees", "red", "and"))}


def make(num_layers: int = 2, target_words: int = 6) -> tuple[Translator, Tables]:
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).normal(size=(len(KNOWN), 5)).astype(np.float32)
    words, values = choose_words([pair.source for pair in PAIRS], "keep", (KNOWN, vectors))
    tables = Tables(words, None, Translator.labels_of(PAIRS)[:target_words])
    config = CoveNetworkConfig(hidden=4, num_layers=num_layers, target_dim=3, dropout=0.2, init_range=0.5)
    return Translator(config, Embedder(EmbedderConfig("fixed"), values), tables.labels).eval(), tables


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_log_probabilities_are_those_of_the_equations(num_layers: int) -> None:
    network, tables = make(num_layers)
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    predicted = network.predict(Translator.make_batch(PAIRS, tables))
    for pair, (total, words) in zip(PAIRS, predicted, strict=True):
        x = [weights["embedder.vectors"][row] for row in tables.words.ids(pair.source)]
        rows = tables.label_rows
        ids = [END + 1 + rows[word] if word in rows else UNKNOWN for word in pair.target]
        expected = numpy_translator.log_probability(x, [BEGIN, *ids], [*ids, END], weights, num_layers)
        assert total == pytest.approx(expected, abs=1e-4) and words == len(pair.target) + 1


def test_a_sentence_in_a_batch_is_translated_as_it_is_alone() -> None:
    network, tables = make()
    together = network.predict(Translator.make_batch(PAIRS, tables))
    alone = [network.predict(Translator.make_batch([pair], tables))[0] for pair in PAIRS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_loss_is_that_of_the_predictions_a_sentence() -> None:
    network, tables = make()
    batch = Translator.make_batch(PAIRS, tables)
    total = sum(total for total, _ in network.predict(batch))
    assert network.loss(batch).item() == pytest.approx(-total / len(PAIRS), abs=1e-4)


def test_rare_target_words_are_unknown_and_every_weight_starts_within_its_range() -> None:
    network, tables = make(target_words=2)
    assert tables.labels == ("eine", "der")  # most frequent first, then by spelling
    batch = Translator.make_batch(PAIRS, tables)
    assert batch.previous[0].tolist() == [BEGIN, END + 2, UNKNOWN, UNKNOWN, UNKNOWN, 0]
    assert batch.target[1].tolist() == [END + 1, UNKNOWN, END + 1, UNKNOWN, END + 1, END]
    assert all(weight.abs().max().item() <= 0.5 for weight in network.parameters())


def test_all_weights_but_the_word_vectors_learn() -> None:
    network, tables = make()
    network.train()
    batch: TranslationBatch = Translator.make_batch(PAIRS, tables)
    network.loss(batch).backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())
    assert "embedder.vectors" not in dict(network.named_parameters())


def read(folder: Path, source: str, target: str, **options: bool) -> list[Translation]:
    (folder / "s").write_text(source)
    (folder / "t").write_text(target)
    return ParallelText(CoveConfig(**options)).read([str(folder / "s")], [str(folder / "t")])  # type: ignore[arg-type]


def test_a_parallel_text_is_read_line_by_line(tmp_path: Path) -> None:
    pairs = read(tmp_path, "A dog\nThe river runs\n", "Ein Hund\nDer Fluss\n")
    assert pairs == [
        Translation(("A", "dog"), ("ein", "hund")),
        Translation(("The", "river", "runs"), ("der", "fluss")),
    ]
    assert read(tmp_path, "A\n", "Ein\n", lower=False)[0].target == ("Ein",)


def test_raw_text_is_split_by_the_rules_of_both_languages(tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="needs spacy (extra text)")
    (pair,) = read(tmp_path, "A dog doesn't run.\n", "Ein Hund z.B. rennt nicht.\n", tokenize=True)
    assert pair.source == ("A", "dog", "does", "n't", "run", ".")
    assert pair.target == ("ein", "hund", "z.b.", "rennt", "nicht", ".")


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("a\nb\n", "c\n", "s has 2 lines and .*t 1; line n of one must be the translation"),
        ("a\n", "c\nd\ne\n", "s has 1 lines and .*t 3"),
        ("a\n \nb\n", "c\nd\ne\n", "s, line 2 is empty; remove it from both files"),
        ("a\nx\n", "c\n\n", "t, line 2 is empty"),
        ("", "c\n", "holds no example"),
    ],
)
def test_a_text_that_is_not_parallel_is_refused(source: str, target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, source, target)


def test_each_source_file_needs_its_target_file() -> None:
    with pytest.raises(ConfigError, match="2 source files and 1 target files"):
        ParallelText(CoveConfig()).read(["a", "b"], ["c"])


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    network, tables = make()
    for weight in network.softmax.parameters():
        torch.nn.init.zeros_(weight)
    found = network.predict(Translator.make_batch(PAIRS, tables))
    mean = sum(total for total, _ in found) / sum(words for _, words in found)
    assert math.exp(-mean) == pytest.approx(len(tables.labels) + END + 1)
