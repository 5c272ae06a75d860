"""embed_sentences() returns all layers of each sentence, without state, in order, and the same in any batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.apply.embed.embed import embed_sentences
from pipeline.apply.load import load_trained
from pipeline.characters import BEGIN_SENTENCE, END_SENTENCE, spell
from pipeline.model.bilm import BiLM, Window

SENTENCES = [
    ["w1", "w2", "w3", "w1"], ["w0"], [], ["wörd7", "unseen", "漢字", "😀"], ["w5"] * 30, ["y" * 48, "z" * 5000],
    ["<S>", "</S>", "<UNK>"], ["w1", "w2", "w3", "w1"],
]  # fmt: skip


@pytest.fixture(scope="module")
def bilm(trained: Path) -> BiLM:
    return load_trained(str(trained)).bilm


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_every_word_has_every_layer(bilm: BiLM) -> None:
    for sentence, layers in zip(SENTENCES, embed_sentences(bilm, SENTENCES), strict=True):
        assert layers.shape == (3, len(sentence), 32) and bool(layers.isfinite().all())
        assert not layers.requires_grad
        assert torch.equal(layers[0, :, :16], layers[0, :, 16:])  # both directions share one token encoder


def test_other_sentences_of_a_batch_and_their_order_do_not_matter(bilm: BiLM) -> None:
    together = embed_sentences(bilm, SENTENCES)
    again = embed_sentences(bilm, SENTENCES)
    turned = embed_sentences(bilm, SENTENCES[::-1])[::-1]
    for number, sentence in enumerate(SENTENCES):
        alone = embed_sentences(bilm, [sentence])[0]
        assert_close(together[number], alone)
        assert_close(turned[number], alone)
        assert torch.equal(again[number], together[number])
    assert_close(together[0], together[-1])


def test_a_direction_depends_only_on_the_words_that_it_has_read(bilm: BiLM) -> None:
    one, other = embed_sentences(bilm, [["w1", "w2", "w3"], ["w1", "w2", "w9", "w8"]])
    assert_close(one[:, :2, :16], other[:, :2, :16])  # forward: the same words before
    assert (one[1:, :2, 16:] - other[1:, :2, 16:]).abs().max() > 1e-4  # backward: other words after


def test_layers_equal_those_of_the_bilm_read_word_by_word(bilm: BiLM) -> None:
    sentence = ["w3", "wörd14", "w1", "nie"]
    width = bilm.config.max_characters
    bounds = [torch.full((width,), 260), torch.full((width,), 260)]
    for row, character in zip(bounds, (BEGIN_SENTENCE, END_SENTENCE), strict=True):
        row[:3] = torch.tensor([258, character, 259])
    rows = [torch.from_numpy(spell(word, width)).long() for word in sentence]
    expected = []
    for d in range(2):
        states, read = bilm.initial_states(1), []
        for row in [bounds[d], *(rows if d == 0 else rows[::-1])]:
            layers, states = bilm(Window(row[None].short(), torch.zeros(2, 1, 1, dtype=torch.int64)), states)
            read.append(torch.stack([layer[d, 0, 0] for layer in layers]))
        words = read[1:] if d == 0 else read[:0:-1]
        expected.append(torch.stack(words, dim=1))
    assert_close(embed_sentences(bilm, [sentence])[0], torch.cat(expected, dim=-1).detach())


def test_no_sentences_and_only_empty_sentences_can_be_embedded(bilm: BiLM) -> None:
    assert embed_sentences(bilm, []) == []
    assert [layers.shape for layers in embed_sentences(bilm, [[], []])] == [(3, 0, 32)] * 2


def test_a_word_is_cut_at_the_maximum_number_of_characters(bilm: BiLM) -> None:
    long, longer = embed_sentences(bilm, [["q" * 48], ["q" * 500]])
    assert_close(long, longer)
    assert (long - embed_sentences(bilm, [["q" * 47]])[0]).abs().max() > 1e-5
