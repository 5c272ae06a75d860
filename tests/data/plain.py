"""The order of training data in plain Python lists, straight from its definition (elmo-numerics, points 8-12).

A text is a list of chunks in the dataset's order. A chunk is a list of sentences. A sentence is a list of lexicon ids.
"""

from itertools import chain

import numpy as np

from data_prep.dataset.shards import Split

BOS, EOS, UNK = 0, 1, 2
Sentence = list[int]
Text = list[list[Sentence]]
Pair = tuple[list[int], list[int]]  # inputs and targets


def text_of(split: Split) -> Text:
    """Return the sentences of each of a split's chunks."""
    return [_sentences(split.chunk(number).tolist()) for number in range(len(split.chunk_tokens))]


def _sentences(tokens: list[int]) -> list[Sentence]:
    found: list[Sentence] = [[]]
    for token in tokens:
        if token == EOS:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == []
    return found


def directions(sentences: list[Sentence]) -> list[Pair]:
    """Return [forward, backward]: the words that each direction reads, and the words that it must predict."""
    return [
        (_joined([BOS, *words] for words in sentences), _joined([*words, EOS] for words in sentences)),
        (_joined([EOS, *words[::-1]] for words in sentences), _joined([*words[::-1], BOS] for words in sentences)),
    ]


def _joined(parts) -> list[int]:
    return list(chain.from_iterable(parts))


def in_order(text: Text, order: np.ndarray) -> list[Pair]:
    """Return what both directions read and predict in the text with its chunks in this order."""
    return directions(_joined(text[number] for number in order))


def window(both: list[Pair], num_lanes: int, length: int, number: int, lanes: range) -> list[list[list[list[int]]]]:
    """Return [inputs, targets] of window `number`, each [direction][step in the window][lane]."""
    lane_tokens = len(both[0][0]) // (num_lanes * length) * length
    return [
        [
            [[pair[side][lane * lane_tokens + number * length + t] for lane in lanes] for t in range(length)]
            for pair in both
        ]
        for side in (0, 1)
    ]


def spelled(word: str, max_characters: int) -> list[int]:
    """Return the character ids of an ordinary word."""
    return _padded(list(word.encode())[: max_characters - 2], max_characters)


def spelled_id(word_id: int, words: list[str], max_characters: int) -> list[int]:
    """Return the character ids of a word of the lexicon, or of a sentence bound."""
    if word_id in (BOS, EOS):
        return _padded([256 + word_id], max_characters)
    return spelled(words[word_id], max_characters)


def _padded(characters: list[int], max_characters: int) -> list[int]:
    row = [258, *characters, 259]
    return row + [260] * (max_characters - len(row))
