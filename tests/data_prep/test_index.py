"""index.json is checked once, when it is read: names, sizes, and sums."""

import copy
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.index import INDEX, check_index, fingerprint_of, information_sha256
from data_prep.dataset.open import open_dataset
from data_prep.dataset.staging import remove_damaged
from data_prep.dataset.summary import Summary
from data_prep.dataset.verify import describe, verify
from tests.corpora import sentences_of
from tests.data_prep.damage import change_index


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_prep.prepare import prepare
    from tests.corpora import write_corpus

    folder = tmp_path_factory.mktemp("made")
    options = {"heldout": 50, "shard_tokens": 4000, "chunk_tokens": 500, "workers": 1, "show_progress": False}
    prepare(write_corpus(folder / "corpus"), folder / "dataset", **options)
    return folder / "dataset"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a dataset with its own index; its other files are links."""
    (tmp_path / "dataset").mkdir()
    for path in made.iterdir():
        (tmp_path / "dataset" / path.name).symlink_to(path)
    (tmp_path / "dataset" / INDEX).unlink()
    (tmp_path / "dataset" / INDEX).write_bytes((made / INDEX).read_bytes())
    return tmp_path / "dataset"


def in_shard(change: Callable[[Any], object], number: int = 0) -> Callable[[Any], object]:
    return lambda index: change(index["splits"]["train"]["shards"][number])


def in_chunk(place: int, value: Any, number: int = 1) -> Callable[[Any], object]:
    return in_shard(lambda shard: shard["chunks"][number].__setitem__(place, value))


def swap_chunks(shard: Any) -> None:
    shard["chunks"][0], shard["chunks"][1] = shard["chunks"][1], shard["chunks"][0]


BAD: dict[str, tuple[Callable[[Any], object], str]] = {
    "a path": (in_shard(lambda s: s.update(file="../precious.txt")), r"file is '\.\./precious\.txt'"),
    "an option": (in_shard(lambda s: s.update(file="?x=-o/path")), "file is"),
    "a name twice": (in_shard(lambda s: s.update(file="train-000001.tar")), "names a file twice"),
    "the index itself": (in_shard(lambda s: s.update(file="index.json")), "names a file twice"),
    "a lexicon file": (in_shard(lambda s: s.update(file="lexicon.tsv")), "names a file twice"),
    "a size below zero": (in_shard(lambda s: s.update(bytes=-1)), "bytes is -1"),
    "a size that is text": (in_shard(lambda s: s.update(bytes="12")), "bytes is '12'"),
    "a huge size": (in_shard(lambda s: s.update(bytes=10**30)), "bytes is 1000"),
    "null": (in_shard(lambda s: s.update(tokens=None)), "tokens is None"),
    "no chunks": (in_shard(lambda s: s.update(chunks=[])), r"chunks is \[\]"),
    "a shard too small": (in_shard(lambda s: s.update(bytes=2000)), "chunk 0 of train cannot lie"),
    "a shard too large": (in_shard(lambda s: s.update(bytes=s["bytes"] + 10240)), "not the size of its chunks"),
    "chunks out of order": (in_shard(swap_chunks), "of train cannot lie where it says"),
    "an offset in the header": (in_chunk(0, 4, 0), "chunk 0 of train cannot lie"),
    "an odd offset": (in_shard(lambda s: s["chunks"][1].__setitem__(0, s["chunks"][1][0] + 2)), "chunk 1 of train"),
    "an offset beyond 64 bits": (in_chunk(0, 1 << 64), "greater|18446744073709551616"),
    "an offset near 64 bits": (in_chunk(0, 1 << 60), "chunk 1 of train cannot lie"),
    "a chunk of nothing": (in_chunk(1, 0), r"chunks\.1\.1 is 0"),
    "many tokens": (in_chunk(1, 1 << 60), "chunk 1 of train cannot lie"),
    "more sentences than tokens": (in_chunk(2, 100_000), "chunk 1 of train cannot .* hold what it says"),
    "a wrong checksum": (in_chunk(3, "0" * 15), r"chunks\.1\.3 is '000"),
    "a chunk of three": (in_shard(lambda s: s["chunks"][0].pop()), r"chunks\.0\.3: field required"),
    "tokens that do not add up": (lambda i: i["splits"]["train"].update(tokens=3), "tokens .* do not add up"),
    "sentences that do not": (in_chunk(2, 1), "sentences of chunks, shards and split train do not add up"),
    "no split": (lambda i: i.update(splits={}), "names no shard"),
    "a split without shards": (lambda i: i["splits"]["train"].update(shards=[]), r"shards is \[\]"),
    "an unknown split": (lambda i: i["splits"].update(test=i["splits"].pop("heldout")), "match its own fingerprint"),
    "another lexicon": (lambda i: i["lexicon"].update(types=17), "not the size of 17 types"),
    "a lexicon of nothing": (lambda i: i["lexicon"].update(types=0), "types is 0"),
    "a lexicon file too few": (lambda i: i["lexicon"]["files"].pop("lexicon.tsv"), "lexicon.tsv: field required"),
    "a fingerprint that leaves": (lambda i: i.update(fingerprint="../../x"), "fingerprint is"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_an_impossible_index_is_refused_in_one_sentence(kind: str, folder: Path) -> None:
    change, message = BAD[kind]
    change_index(folder, change, with_fingerprint="lexicon file" not in kind and "fingerprint" not in kind)
    for use in (open_dataset, verify, describe):
        with pytest.raises(DataError, match=message) as error:
            use(folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
        assert "copy or prepare the dataset again" in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"[" * 10_000, b'{"a":' * 10_000, b"\xff", b"9" * 5000]
)
def test_a_file_that_is_no_index_is_refused_in_one_sentence(data: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(data)
    for use in (open_dataset, verify, describe):
        with pytest.raises(DataError, match=r"index\.json is damaged"):
            use(folder)


def test_an_index_larger_than_any_real_one_is_not_read(folder: Path) -> None:
    with open(folder / INDEX, "r+b") as file:
        file.truncate(1 << 34)  # sparse
    with pytest.raises(DataError, match="more than the 33,554,432 of any index"):
        open_dataset(folder)


@pytest.mark.parametrize("version", [1, 3, "2", None, [], 10**40])
def test_another_version_is_refused_with_the_remedy(version: Any, folder: Path) -> None:
    change_index(folder, lambda index: index.update(version=version))
    with pytest.raises(DataError, match=r"is of format .*this program reads .*prepare the corpus again"):
        open_dataset(folder)


def test_nothing_outside_the_stage_folder_can_be_removed(folder: Path, tmp_path: Path) -> None:
    """Open the dataset and remove damaged copies of the files that its index names, as preflight does on every node."""
    (tmp_path / "stage").mkdir()
    precious = tmp_path / "precious.txt"
    precious.write_text("all of it")
    for name in ("../../precious.txt", str(precious)):
        change_index(folder, in_shard(lambda shard, name=name: shard.update(file=name)))
        with pytest.raises(DataError, match="file is"):
            remove_damaged(open_dataset(folder).index, tmp_path / "stage")
    assert precious.read_text() == "all of it"


INFORMING = [
    lambda i: (i.pop("summary"), i.pop("made")),
    lambda i: i.update(summary=None, made=7),
    lambda i: i.update(summary={"lines": "many", "words": []}, made={"options": [], "inputs": {}}),
    lambda i: i.update(summary={"oov_share": {"train": {"x": 0.1}}}, made={"inputs": [{"name": 1}]}),
]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("change", INFORMING)
def test_parts_of_the_index_that_only_inform_may_be_missing_or_damaged(
    change: Any, sealed: bool, folder: Path, made: Path, caplog: Any
) -> None:
    """sealed: the checksum is made again, so that only the types are wrong."""
    change_index(folder, change)
    if sealed:
        change_index(folder, lambda i: i.update(information_sha256=information_sha256(i.get("made"), i.get("summary"))))
    dataset = open_dataset(folder)
    assert sentences_of(dataset) == sentences_of(made) and verify(folder).ok
    assert "1,150 sentences" in describe(folder)
    assert Summary.from_index("x", dataset.index).types == len(dataset.lexicon) - 3


def test_a_changed_figure_that_only_informs_is_left_out_with_a_warning(folder: Path, caplog: Any) -> None:
    change_index(folder, lambda i: i["made"]["options"].update(seed=7))
    assert "seed=" not in describe(folder)
    assert '"made" of the index does not match its checksum' in caplog.text


def mutate(value: Any, chance: random.Random) -> Any:
    """Return the value with one random part replaced by another value."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        changed = copy.copy(value)
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        changed[key] = mutate(value[key], chance)
        return changed
    others = [None, -1, 0, 1.5, 10**25, "", "../x", [], {}, True, [[]], value, str(value)[::-1], float("nan")]
    return chance.choice(others)


@pytest.mark.parametrize("seed", range(8))
def test_any_change_of_an_index_is_harmless_or_refused_in_one_sentence(seed: int, folder: Path, made: Path) -> None:
    good = json.loads((made / INDEX).read_text())
    for number in range(40):
        index = mutate(good, random.Random(1000 * seed + number))
        if number % 2:
            with suppress(KeyError, TypeError, AttributeError, IndexError):
                index["fingerprint"] = fingerprint_of(index["lexicon"], index["splits"])
        (folder / INDEX).write_text(json.dumps(index))
        for use in (open_dataset, verify, describe):
            try:
                use(folder)
            except DataError as error:
                assert "\n" not in str(error)


def test_an_index_of_thirty_million_sentences_is_checked(made: Path) -> None:
    """Check an index of 3,200 chunks in 24 shards. The time is only printed (pytest -s)."""
    index = json.loads((made / INDEX).read_text())
    tokens = 1 << 18
    offsets = 640 + np.arange(134) * (4 * tokens + 640)
    chunks = [[int(offset), tokens, 9000, "0123456789abcdef"] for offset in offsets]
    shard = {"bytes": -(-(int(offsets[-1]) + 4 * tokens + 1024) // 10240) * 10240, "sha256": "0" * 64}
    counts = {"tokens": tokens * 134, "sentences": 9000 * 134}
    shards = [{"file": f"train-{i:06d}.tar", **shard, **counts, "chunks": chunks} for i in range(24)]
    index["splits"] = {"train": {key: 24 * count for key, count in counts.items()} | {"shards": shards}}
    index["fingerprint"] = fingerprint_of(index["lexicon"], index["splits"])
    data = json.dumps(index, indent=1).encode()
    begun = time.perf_counter()
    assert check_index(data, "here")["splits"]["train"]["tokens"] == tokens * 134 * 24
    print(f"{len(data):,} bytes checked in {time.perf_counter() - begun:.3f} s")
