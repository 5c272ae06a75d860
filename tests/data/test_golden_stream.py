"""Our batches against those that bilm-tf's own data code made of its test text, unshuffled.

bilm-tf fills the rows of a batch from one queue of sentences: a row takes the next sentence whenever it runs out.
Our lanes are contiguous stretches of the text. With one row both programs read the text from start to end, so only
batch size 1 can be compared, with any number of steps. In unshuffled text, bilm-tf's backward direction reads the
sentences in the same order as its forward direction.
"""

from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from data_prep.prepare import prepare
from pipeline.data.lanes import TrainLanes
from pipeline.data.stream import Stream
from pipeline.data.vocabulary import Vocabulary, vocabulary_map
from pipeline.data.windows import Batch, BatchMaker, TrainWindows

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "bilm-tf"
pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(),
    reason=f"the reference's text and batches are not at {FIXTURES}; see elmo-numerics, Conformance",
)
SUFFIXES = ("", "_reverse")
STEPS = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("golden") / "dataset"
    prepare([str(FIXTURES / "train_data.txt")], folder, shuffle="none", workers=1, show_progress=False)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def vocabulary(dataset: Dataset) -> Vocabulary:
    """Return the reference's vocabulary. A word's id is its line in the reference's file, not its id in our lexicon."""
    words = (FIXTURES / "train_vocab.txt").read_text(encoding="utf-8").split()
    return Vocabulary(len(words), vocabulary_map(dataset.lexicon, words))


def golden(key: str, name: str) -> np.ndarray:
    """Return (2, batches, steps, ...): both directions of one array, from all batches of one row."""
    with np.load(FIXTURES / "stream_golden.npz") as file:
        number = len({entry.split("/")[1] for entry in file if entry.startswith(f"{key}/")})
        return np.array([[file[f"{key}/{i}/{name}{suffix}"][0] for i in range(number)] for suffix in SUFFIXES])


def ours(dataset: Dataset, vocabulary: Vocabulary, max_characters: int, window: int, count: int) -> list[Batch]:
    split = dataset.splits["train"]
    maker = BatchMaker(dataset.lexicon, vocabulary, max_characters)
    windows = TrainWindows(split, maker, TrainLanes(split.num_tokens, 1, window), seed=0)
    return [windows.batch(step, range(1)) for step in range(count)]


@pytest.mark.parametrize("max_characters", [10, 50])
def test_windows_of_the_first_pass_are_bilm_tfs_batches(
    dataset: Dataset, vocabulary: Vocabulary, max_characters: int
) -> None:
    key = f"c{max_characters}_b1_s{STEPS}"
    complete = dataset.splits["train"].num_tokens // STEPS
    assert complete == 6
    batches = ours(dataset, vocabulary, max_characters, STEPS, complete)
    for number, batch in enumerate(batches):
        assert (batch.targets[:, :, 0].numpy() == golden(key, "next_token_id")[:, number]).all()
        characters = batch.characters.numpy()[batch.word_index[:, :, 0].numpy()]
        assert (characters == golden(key, "tokens_characters")[:, number]).all()


@pytest.mark.parametrize("max_characters", [10, 50])
def test_the_stream_is_bilm_tfs_from_pass_to_pass(
    dataset: Dataset, vocabulary: Vocabulary, max_characters: int
) -> None:
    """Check windows of one token, which leave no tail: epochs then follow each other as bilm-tf's passes do."""
    key = f"c{max_characters}_b1_s{STEPS}"
    tokens = dataset.splits["train"].num_tokens
    targets = golden(key, "next_token_id").reshape(2, -1)
    assert targets.shape[1] == 160 > tokens == 139
    batches = ours(dataset, vocabulary, max_characters, 1, 160)
    assert (np.concatenate([b.targets[:, :, 0] for b in batches], 1) == targets).all()
    characters = np.concatenate([b.characters.numpy()[b.word_index[:, :, 0].numpy()] for b in batches], 1)
    assert (characters == golden(key, "tokens_characters").reshape(2, 160, -1)).all()


def test_what_is_read_is_bilm_tfs_token_ids(dataset: Dataset, vocabulary: Vocabulary) -> None:
    split = dataset.splits["train"]
    stretch = Stream(split, np.arange(split.num_chunks)).read(0, split.num_tokens)
    token_ids = golden(f"c50_b1_s{STEPS}", "token_ids").reshape(2, -1)
    assert (vocabulary.targets(stretch.inputs) == token_ids[:, : split.num_tokens]).all()
