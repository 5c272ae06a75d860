"""Stretches of an epoch's text against plain lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.shards import Dataset
from pipeline.data.stream import Stream
from tests.data import plain
from tests.data.corpora import Corpus, corpora, many


@many
@given(corpora(), st.data())
def test_any_stretch_equals_the_closed_form_in_both_directions(corpus: Corpus, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(corpus.chunks)))))
    stream = Stream(corpus, order)
    both = plain.in_order(plain.text_of(corpus), order)
    assert stream.num_tokens == corpus.num_tokens == len(both[0][0])
    start = data.draw(st.integers(0, corpus.num_tokens))
    stop = data.draw(st.integers(start, corpus.num_tokens))
    stretch = stream.read(start, stop)
    assert stretch.inputs.tolist() == [inputs[start:stop] for inputs, _ in both]
    assert stretch.targets.tolist() == [targets[start:stop] for _, targets in both]


@pytest.mark.parametrize("length", [1, 2, 254, 255, 256, 257, 511, 512, 513, 2000])
def test_a_sentence_of_any_length_is_reversed_completely_from_any_place_in_it(length: int) -> None:
    corpus = Corpus([[[2, length, 3]]])
    stream, both = Stream(corpus, np.array([0])), plain.in_order(plain.text_of(corpus), np.array([0]))
    for start in range(0, corpus.num_tokens, 1 + length // 50):
        assert stream.read(start, start + 1).targets[:, 0].tolist() == [t[start] for _, t in both]


def test_real_shards_read_as_they_were_prepared(prepared: Dataset) -> None:
    split = prepared.splits["train"]
    assert split.chunk_shard[-1] >= 2 and split.num_chunks > split.chunk_shard[-1] + 1
    order = np.arange(split.num_chunks)[::-1]
    stretch = Stream(split, order).read(0, split.num_tokens)
    both = plain.in_order(plain.text_of(split), order)
    assert [*zip(stretch.inputs.tolist(), stretch.targets.tolist(), strict=True)] == both


def test_a_chunk_that_ends_inside_a_sentence_raises_an_error_with_the_remedy() -> None:
    corpus = Corpus([[[3, 400]]])
    corpus.chunks[0][-1] = 5
    with pytest.raises(ValueError, match="elmo prep verify"):
        Stream(corpus, np.array([0])).read(10, 20)
