"""A dataset holds every sentence of its input once, in the promised order, with correct counts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.dataset.files import DataError
from data_prep.dataset.lexicon import Lexicon
from data_prep.dataset.open import open_dataset
from data_prep.dataset.verify import verify
from tests.corpora import bytes_of, lines_of, sentences_of, unlike_sentences, word_counts, write_corpus

WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=6).filter(
    lambda word: word not in ("<S>", "</S>") and word.split() == [word]
)
SENTENCES = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(SENTENCES, min_size=1, max_size=3),
    shuffle=st.sampled_from(["sentences", "documents", "none"]),
    chunk_tokens=st.integers(1, 60),
    shard_tokens=st.integers(350, 700),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_dataset_holds_exactly_the_sentences_of_its_input(
    tmp_path_factory, prepare, files, shuffle, chunk_tokens, shard_tokens, seed
):
    folder = tmp_path_factory.mktemp("any")
    for number, lines in enumerate(files):
        (folder / f"{number}.txt").write_bytes("\n".join(lines).encode())
    out = folder / "out"
    prepare(
        [str(folder / f"{number}.txt") for number in range(len(files))],
        out,
        shuffle=shuffle,
        chunk_tokens=chunk_tokens,
        shard_tokens=shard_tokens,
        seed=seed,
    )
    everything = [line for lines in files for line in lines]
    found = sentences_of(out)
    assert Counter(found) == Counter(everything)
    if shuffle == "none":
        assert found == everything
    assert verify(out).ok


def test_the_lexicon_counts_train_words_and_lists_them_by_count_then_bytes(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "out", heldout=0.3)
    lexicon = open_dataset(tmp_path / "out").lexicon
    train, heldout = (word_counts(sentences_of(tmp_path / "out", split)) for split in ("train", "heldout"))
    expected = sorted(train | heldout, key=lambda word: (-train[word], word.encode()))
    assert lexicon.words() == ["<S>", "</S>", "<UNK>", *expected]
    assert lexicon.counts.tolist()[3:] == [train[word] for word in expected]
    assert lexicon.counts[1] == len(sentences_of(tmp_path / "out"))
    assert lexicon.counts[-1] == 0, "words of held-out text only stand at the end"
    lines = (tmp_path / "out" / "lexicon.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert lines == [f"{lexicon.word(i)}\t{lexicon.counts[i]}" for i in range(len(lexicon))]


def test_shuffling_is_global_and_depends_on_the_seed(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "a", seed=1, shard_tokens=5000)
    prepare(corpus, tmp_path / "b", seed=2, shard_tokens=5000)
    lines, a, b = lines_of(corpus), sentences_of(tmp_path / "a"), sentences_of(tmp_path / "b")
    assert sorted(a) == sorted(b) == sorted(lines)
    assert a != b
    position = {line: i for i, line in enumerate(lines)}
    places = np.array([position[sentence] for sentence in a])
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.1
    first_shard = open_dataset(tmp_path / "a").index["splits"]["train"]["shards"][0]["sentences"]
    assert len({place // 300 for place in places[:first_shard]}) == 4, "a shard has sentences of every file"


def test_documents_are_shuffled_and_stay_whole_and_in_order(prepare, tmp_path):
    documents = [unlike_sentences(1 + number % 5, seed=number) for number in range(60)]
    for name, part in (("a.txt", documents[:30]), ("b.txt", documents[30:])):
        (tmp_path / name).write_text("\n \n\n".join("\n".join(document) for document in part), encoding="utf-8")
    prepare(
        [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")],
        tmp_path / "out",
        shuffle="documents",
        shard_tokens=800,
        heldout=20,
    )
    document_of = {line: number for number, document in enumerate(documents) for line in document}
    order = []
    for split in ("train", "heldout"):
        found = sentences_of(tmp_path / "out", split)
        numbers = [document_of[sentence] for sentence in found]
        order += [number for i, number in enumerate(numbers) if i == 0 or numbers[i - 1] != number]
        for number in set(numbers):
            at = numbers.index(number)
            assert found[at : at + len(documents[number])] == documents[number]
    assert sorted(order) == list(range(60)), "each document is in one piece"
    assert order != list(range(60))
    assert len(sentences_of(tmp_path / "out", "heldout")) >= 20
    for shard in open_dataset(tmp_path / "out").index["splits"]["train"]["shards"]:
        assert shard["tokens"] > 0


@pytest.mark.parametrize("shuffle", ["sentences", "none"])
def test_a_number_of_sentences_is_held_out_exactly(prepare, corpus, tmp_path, shuffle):
    prepare(corpus, tmp_path / "out", heldout=37, shuffle=shuffle)
    heldout = sentences_of(tmp_path / "out", "heldout")
    assert len(heldout) == 37
    assert Counter(heldout + sentences_of(tmp_path / "out")) == Counter(lines_of(corpus))
    if shuffle == "none":
        assert heldout == lines_of(corpus)[-37:]


def test_about_the_given_share_of_the_sentences_is_held_out(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "out", heldout=0.25)
    assert 250 <= len(sentences_of(tmp_path / "out", "heldout")) <= 350


def test_held_out_text_can_be_a_separate_input(prepare, corpus, tmp_path):
    prepare(corpus[:3], tmp_path / "out", heldout_inputs=corpus[3:])
    assert Counter(sentences_of(tmp_path / "out", "heldout")) == Counter(lines_of(corpus[3:]))
    assert Counter(sentences_of(tmp_path / "out")) == Counter(lines_of(corpus[:3]))


def test_chunks_hold_whole_sentences_and_have_about_the_given_size(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "out", chunk_tokens=500, shard_tokens=4000)
    split = open_dataset(tmp_path / "out").splits["train"]
    assert split.num_chunks == len(split.chunk_tokens) == len(split.chunk_shard)
    assert split.chunk_tokens.sum() == split.num_tokens
    for number in range(split.num_chunks):
        assert split.chunk(number)[-1] == 1
        assert len(split.chunk(number)) == split.chunk_tokens[number] < 500 + 32
    assert set(split.chunk_shard) == set(range(split.chunk_shard[-1] + 1))


def test_no_line_is_lost_when_large_files_are_read_in_parts(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.plan.UNIT_BYTES", 3000)
    monkeypatch.setattr("data_prep.passes.sorted_spills.SPILL_TOKENS", 400)
    monkeypatch.setattr("data_prep.passes.encode.SPILL_TOKENS", 400)
    paths = write_corpus(tmp_path / "corpus", files=2)
    prepare(paths, tmp_path / "out", shuffle="none")
    assert sentences_of(tmp_path / "out") == lines_of(paths)
    prepare(paths, tmp_path / "shuffled")
    assert Counter(sentences_of(tmp_path / "shuffled")) == Counter(lines_of(paths))


def test_large_files_are_not_cut_within_a_document(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.plan.UNIT_BYTES", 700)
    documents = [unlike_sentences(1 + number % 9, seed=number) for number in range(40)]
    path = tmp_path / "all.txt"
    path.write_text("\n\n".join("\n".join(document) for document in documents), encoding="utf-8")
    prepare([str(path)], tmp_path / "out", shuffle="documents")
    found = sentences_of(tmp_path / "out")
    for document in documents:
        at = found.index(document[0])
        assert found[at : at + len(document)] == document


def test_the_bytes_do_not_depend_on_the_folder_or_the_dates_of_files(prepare, tmp_path):
    a = write_corpus(tmp_path / "a")
    b = write_corpus(tmp_path / "b")
    prepare(a, tmp_path / "out-a", heldout=10)
    prepare(b, tmp_path / "out-b", heldout=10)
    first, second = bytes_of(tmp_path / "out-a"), bytes_of(tmp_path / "out-b")
    first.pop(".prepared.json"), second.pop(".prepared.json")  # the only file that holds dates
    assert first == second


def test_the_summary_describes_the_dataset(prepare, tmp_path):
    long_word = "x" * 49
    (tmp_path / "a.txt").write_text(f"a a a b <UNK>\n\n{long_word} a b c\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n")
    summary = prepare([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tmp_path / "out")
    assert (summary.num_sentences, summary.num_words, summary.types, summary.shards) == (2, 9, 4, 1)
    assert summary.cut_words_share == pytest.approx(1 / 9)
    assert (summary.lines, summary.empty_lines, summary.unk_words) == (4, 2, 1)
    assert summary.inputs_without_text == ["b.txt"]
    assert "9 words in 2 sentences" in str(summary)
    assert "no text in b.txt" in str(summary)


def test_out_of_vocabulary_shares_are_those_of_a_prefix_of_the_lexicon(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.passes.merge.VOCABULARY_SIZES", (5, 100))
    (tmp_path / "a.txt").write_text("a a a a b b b c c d\n", encoding="utf-8")
    summary = prepare([str(tmp_path / "a.txt")], tmp_path / "out")
    assert summary.oov_share == {"train": {5: pytest.approx(0.3)}}  # <S> </S> <UNK> a b


def test_a_lexicon_in_memory_equals_the_one_on_disk(tmp_path):
    lexicon = Lexicon.from_words(["<S>", "</S>", "<UNK>", "naïve", "a"], [0, 2, 0, 5, 3])
    lexicon.write(tmp_path)
    opened = Lexicon.open(tmp_path)
    assert opened.words() == lexicon.words() == ["<S>", "</S>", "<UNK>", "naïve", "a"]
    assert opened.words(3, 4) == ["naïve"] and opened.word(4) == "a" and len(opened) == 5
    with pytest.raises(DataError, match="begins with"):
        Lexicon.from_words(["a"], [1])
