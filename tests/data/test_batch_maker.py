"""Unique words and target ids."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch.multiprocessing  # noqa: F401 - teaches the pickler to share tensors
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.lexicon import SPECIALS, UNK_ID, Lexicon
from data_prep.dataset.shards import Dataset
from pipeline.data.stream import DirectedIds
from pipeline.data.vocabulary import Vocabulary, vocabulary_map
from pipeline.data.windows import BatchMaker
from tests.data.corpora import many, same

WORDS = [*SPECIALS, *(f"w{number}" for number in range(40))]
windows = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        st.integers(0, len(WORDS) - 1), min_size=2 * shape[0] * shape[1], max_size=2 * shape[0] * shape[1]
    ).map(lambda ids: np.array(ids, dtype=np.int32).reshape(2, *shape))
)


def maker(vocabulary: Vocabulary | None = None) -> BatchMaker:
    lexicon = Lexicon.from_words(WORDS, np.zeros(len(WORDS)))
    return BatchMaker(lexicon, vocabulary or Vocabulary(10), 20)


@many
@given(st.lists(windows, min_size=1, max_size=4))
def test_unique_words_occur_once_and_the_index_restores_the_ids(asked: list[np.ndarray]) -> None:
    one = maker()  # what it made before must not matter
    for ids in asked:
        unique, index = one.unique(ids)
        assert sorted(unique.tolist()) == sorted(set(ids.ravel().tolist()))
        assert index.shape == ids.shape and (unique[index] == ids).all()


def test_a_batch_is_pickled_with_its_data_and_without_shared_memory() -> None:
    ids = np.arange(40, dtype=np.int32).reshape(2, 4, 5)
    batch = maker().make(DirectedIds(ids, ids), step=3, first_lane=1, resets_state=True)
    sent = bytes(ForkingPickler.dumps(batch))
    assert batch.characters.numpy().tobytes() in sent
    assert same(ForkingPickler.loads(sent), batch)


@many
@given(windows, st.integers(3, 50))
def test_a_prefix_of_the_lexicon_keeps_its_ids_and_the_rest_is_unk(ids: np.ndarray, size: int) -> None:
    expected = [word if word < size else UNK_ID for word in ids.ravel().tolist()]
    found = Vocabulary(size).targets(ids)
    assert found.dtype == np.int64 and found.ravel().tolist() == expected


@many
@given(windows, st.permutations([*WORDS[3:30], "elsewhere", "nowhere"]), st.integers(0, 29))
def test_words_are_mapped_to_another_vocabulary_by_their_spelling(
    ids: np.ndarray, foreign: list[str], size: int
) -> None:
    words = [*SPECIALS, *foreign[:size]]
    lexicon = Lexicon.from_words(WORDS, np.zeros(len(WORDS)))
    found = Vocabulary(len(words), vocabulary_map(lexicon, words)).targets(ids)
    expected = [words.index(WORDS[i]) if WORDS[i] in words else UNK_ID for i in ids.ravel().tolist()]
    assert found.dtype == np.int64 and found.ravel().tolist() == expected


def test_the_map_of_a_lexicon_onto_itself_changes_nothing(prepared: Dataset) -> None:
    mapped = vocabulary_map(prepared.lexicon, prepared.lexicon.words())
    assert mapped.dtype == np.int32 and mapped.tolist() == list(range(len(prepared.lexicon)))


def test_a_lexicon_larger_than_a_block_is_mapped_completely() -> None:
    words = [*SPECIALS, *map(str, range(70_000))]
    lexicon = Lexicon.from_words(words, np.zeros(len(words)))
    turned = [*SPECIALS, *reversed(words[3:])]
    assert vocabulary_map(lexicon, turned).tolist() == [0, 1, 2, *range(len(words) - 1, 2, -1)]
