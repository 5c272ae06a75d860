"""Random small datasets: in memory, and a few of them written as real shards."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from data_prep.dataset.files import write_json
from data_prep.dataset.index import FORMAT, INDEX, VERSION, fingerprint_of
from data_prep.dataset.lexicon import EOS_ID, SPECIALS, Lexicon
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset, write_shard
from data_prep.passes.merge import lexicon_entry
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import Batch, BatchMaker

MAX_CHARACTERS = 12
many = settings(deadline=None, max_examples=80)
some = settings(deadline=None, max_examples=25)
few = settings(deadline=None, max_examples=6)


@dataclass
class Corpus:
    """A split in memory, with the attributes of data_prep.dataset.shards.Split that the readers of windows use.

    lengths: the number of words of each sentence, by shard and chunk. Word ids count up from 3 and start again after
    `types` words.
    """

    lengths: list[list[list[int]]]
    types: int = 1 << 30
    chunks: list[np.ndarray] = field(init=False)
    chunk_tokens: np.ndarray = field(init=False)
    chunk_shard: np.ndarray = field(init=False)
    num_tokens: int = field(init=False)
    chunks_asked_for: int = 0

    def __post_init__(self) -> None:
        self.chunks, shards, position = [], [], 0
        for shard, chunks in enumerate(self.lengths):
            for chunk in chunks:
                tokens: list[int] = []
                for length in chunk:
                    tokens += [3 + (position + k) % self.types for k in range(length)] + [EOS_ID]
                    position += length
                self.chunks.append(np.array(tokens, dtype=np.int32))
                shards.append(shard)
        self.chunk_tokens = np.array([len(chunk) for chunk in self.chunks], dtype=np.int64)
        self.chunk_shard = np.array(shards, dtype=np.int64)
        self.num_tokens = int(self.chunk_tokens.sum())

    def chunk(self, index: int) -> np.ndarray:
        self.chunks_asked_for += 1
        return self.chunks[index]

    def lexicon(self) -> Lexicon:
        """Return a lexicon of short words and of words that are longer than MAX_CHARACTERS."""
        num_types = max(int(chunk.max()) for chunk in self.chunks) + 1
        words = [f"w{i}" if i % 3 else f"é{i}-a-long-word" for i in range(3, num_types)]
        return Lexicon.from_words([*SPECIALS, *words], np.zeros(max(num_types, 3), np.int64))

    def maker(self, vocabulary: int = 5) -> BatchMaker:
        return BatchMaker(self.lexicon(), Vocabulary(vocabulary), MAX_CHARACTERS)

    def write(self, folder: Path) -> Dataset:
        """Write the corpus as a dataset on disk, and open it."""
        folder.mkdir(parents=True)
        self.lexicon().write(folder)
        numbered = list(zip(self.chunk_shard, self.chunks, strict=True))
        shards = [
            write_shard(folder, "train", s, [(chunk, int((chunk == EOS_ID).sum())) for n, chunk in numbered if n == s])
            for s in range(len(self.lengths))
        ]
        counts = {key: sum(shard[key] for shard in shards) for key in ("tokens", "sentences")}
        splits = {"train": {"shards": shards, **counts}}
        entry = lexicon_entry(folder, self.lexicon())
        index = {
            "format": FORMAT, "version": VERSION, "lexicon": entry, "splits": splits,
            "fingerprint": fingerprint_of(entry, splits),
        }  # fmt: skip
        write_json(folder / INDEX, index)
        return open_dataset(folder)


def corpora(most_shards: int = 4) -> st.SearchStrategy[Corpus]:
    """Return a strategy for corpora of one or several shards.

    Some sentences have one word, and some are longer than the blocks in which Stream looks for the ends of sentences.
    """
    lengths = st.one_of(st.integers(1, 9), st.sampled_from([1, 40, 255, 256, 257, 600]))
    chunk = st.lists(lengths, min_size=1, max_size=6)
    shard = st.lists(chunk, min_size=1, max_size=4)
    return st.builds(Corpus, st.lists(shard, min_size=1, max_size=most_shards), st.sampled_from([1, 7, 1 << 30]))


@st.composite
def lane_plans(draw: st.DrawFn, corpus: Corpus) -> tuple[int, int]:
    """Draw (lanes, T) that the corpus fills at least once."""
    lanes = draw(st.integers(1, min(12, corpus.num_tokens)))
    return lanes, draw(st.integers(1, min(25, corpus.num_tokens // lanes)))


def read_spelled(batch: Batch) -> np.ndarray:
    """Return (2, T, B, C): the characters of the words that each direction reads."""
    return batch.characters.numpy()[batch.word_index.numpy()]


def same(one: Batch, other: Batch) -> bool:
    """Return whether two batches agree in every field."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a.dtype == b.dtype and a.equal(b) if isinstance(a, Tensor) else a == b for a, b in pairs)
