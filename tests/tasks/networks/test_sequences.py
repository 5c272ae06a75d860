"""Words and characters as numbers: lookup by case, vectors of a table, spellings, batches."""

import numpy as np
import pytest
import torch

from pipeline.config.schema import ConfigError
from pipeline.config.task_networks import CharacterCnnConfig, EmbedderConfig
from pipeline.tasks.examples.types import TaggedSentence
from pipeline.tasks.networks.embedder import CharacterCnn, Embedder
from pipeline.tasks.networks.network import make_tables
from pipeline.tasks.networks.sequences import (
    CharacterTable,
    Tables,
    WordTable,
    choose_characters,
    choose_words,
)
from pipeline.tasks.networks.tagger import Tagger

TEXTS = (("The", "the", "NASA", "xyz"), ("go",))
VECTORS = ({"the": 0, "The": 1, "nasa": 2, "unused": 3}, np.array([[1.0, 2], [3, 4], [5, 6], [7, 8]]))


@pytest.mark.parametrize(
    ("case", "found"),
    [("keep", ["The", "the", None, None]), ("lower", ["the", "the", "nasa", None]),
     ("keep_then_lower", ["The", "the", "nasa", None])],
)  # fmt: skip
def test_fixed_vectors_are_found_by_case_and_zero_for_unknown_words(case: str, found: list[str | None]) -> None:
    table, values = choose_words(TEXTS, case, VECTORS)  # type: ignore[arg-type]
    assert "unused" not in table.words
    expected = [[0.0, 0.0] if word is None else VECTORS[1][VECTORS[0][word]].tolist() for word in found]
    assert values[table.ids(TEXTS[0])].tolist() == expected


def test_trained_vectors_hold_all_words_and_start_with_the_same_distribution() -> None:
    rows = {f"w{k}": k for k in range(500)}
    array = np.random.default_rng(1).normal(0.5, 2.0, (500, 8))
    texts = [tuple(rows), tuple(f"new{k}" for k in range(500))]
    table, values = choose_words(texts, "lower", (rows, array), trained=True)
    assert 1 not in table.ids(texts[0] + texts[1]) and not values[0].any() and values[1].any()
    np.testing.assert_allclose(values[table.ids(texts[0])], array, rtol=1e-6)
    new = values[table.ids(texts[1])]
    assert (new.mean(), new.std()) == (pytest.approx(array.mean(), abs=0.1), pytest.approx(array.std(), abs=0.1))
    again = choose_words(texts, "lower", (rows, array), trained=True)[1]
    assert np.array_equal(values, again)


def test_without_a_file_trained_vectors_start_small_and_random() -> None:
    table, values = choose_words(TEXTS, "lower", trained=True, dim=300)
    assert table.words == ("the", "nasa", "xyz", "go")
    assert values[2:].std() == pytest.approx(0.1, abs=0.01)


def test_normalised_vectors_have_length_1_and_unknown_words_length_0() -> None:
    _, values = choose_words(TEXTS, "keep", VECTORS, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), [0, 0, 1, 1], rtol=1e-6)


def test_frequent_characters_have_rows_and_long_words_are_cut() -> None:
    table = choose_characters([("aab", "abc"), ("a",)], min_count=2, most=4, fewest=3)
    assert table.characters == ("a", "b")
    assert table.ids("abcab") == [2, 3, 1, 2]
    sequences = Tables(WordTable(()), table).sequences([("ab", "c"), ("a",)])
    assert sequences.characters is not None
    assert sequences.characters.tolist() == [[[2, 3, 0], [1, 0, 0]], [[2, 0, 0], [0, 0, 0]]]
    assert sequences.mask.tolist() == [[True, True], [True, False]]
    assert sequences.lengths.tolist() == [2, 1]


def test_the_character_cnn_gives_a_word_the_same_vector_alone() -> None:
    torch.manual_seed(1)
    cnn = CharacterCnn(CharacterCnnConfig(4, [[2, 3], [3, 5]]), 6)
    table = CharacterTable(tuple("abcdef"), 10, 3)
    words = ["a", "ab", "abc", "abcdefabcd"]
    spellings = Tables(WordTable(()), table).sequences([tuple(words)]).characters
    assert spellings is not None
    together = cnn(spellings[0])
    for word, found in zip(words, together, strict=True):
        padded = torch.tensor([table.ids(word) + [0] * (3 - len(word))])
        x = cnn.embedding(padded).transpose(1, 2)
        expected = torch.cat([torch.relu(c(x[..., : max(len(word), w)])).amax(2)[0] for c, w in
                              zip(cnn.convolutions, (2, 3), strict=True)])  # fmt: skip
        torch.testing.assert_close(found, expected)


def test_the_embedder_joins_vectors_and_spellings_and_leaves_padding_zero() -> None:
    config = EmbedderConfig("fixed", "keep", characters=CharacterCnnConfig(4, [[2, 3]]))
    tables, vectors = make_tables(config, TEXTS, (), VECTORS)
    embedder = Embedder(config, vectors, len(tables.characters.characters) if tables.characters else 0)
    sequences = tables.sequences(TEXTS)
    x = embedder(sequences)
    assert x.shape == (2, 4, embedder.output_dim) == (2, 4, 5)
    assert x[0, :, :2].tolist() == [[3, 4], [1, 2], [0, 0], [0, 0]]
    assert not x[1, 1:].any()
    assert {name for name, _ in embedder.named_parameters()} == {
        "cnn.embedding.weight", "cnn.convolutions.0.weight", "cnn.convolutions.0.bias"
    }  # fmt: skip


def test_a_model_may_have_no_word_vectors() -> None:
    config = EmbedderConfig("none")
    tables, vectors = make_tables(config, TEXTS, ())
    assert vectors is None
    assert Embedder(config, None)(tables.sequences(TEXTS)).shape == (2, 4, 0)
    with pytest.raises(ConfigError, match=r"words\.vectors=none does not fit"):
        Embedder(config, np.zeros((2, 3)))


def test_a_batch_moves_to_a_device_except_for_its_lengths() -> None:
    tables = Tables(WordTable(("go",)), CharacterTable(("g",)), ("O",))
    batch = Tagger.make_batch([TaggedSentence(("go", "on"), ("O", "O"))], tables)
    moved = batch.with_elmo(lambda texts: torch.zeros(3, 1, 2, 4)).to("meta")
    (sequences,) = moved.sequences
    assert sequences.elmo is not None and sequences.characters is not None
    assert {t.device.type for t in (moved.tags, sequences.words, sequences.characters, sequences.mask)} == {"meta"}
    assert (sequences.elmo.device.type, sequences.lengths.device.type) == ("meta", "cpu")
    assert sequences.texts == (("go", "on"),)
