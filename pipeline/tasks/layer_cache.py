"""The layers of a data set's texts by a frozen biLM: computed once, kept on disk, memory-mapped, shared by all runs.

Each different text is stored once. It is read from the zero state, whatever stands before it, as `pipeline.Elmo` does
by default. Files of a folder, where KEY is a digest of the biLM's weights, the texts and the type of the values:

    KEY.layers   (L + 1, words, D) values of each text end to end, shorter texts first
    KEY.json     sizes and checksums; written last: without it the layers count as not made
    KEY.part     what a killed process had computed, with KEY.part.json; the next one continues there
    KEY.lock     held by the process that computes; others wait for it
"""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
import xxhash

from data_prep.dataset.files import DataError, lock_file, sync_folder, write_json
from data_prep.dataset.index import Xxh3
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import Count, Sha256, load_json
from data_prep.progress import Progress
from pipeline.config.schema import ConfigError, require
from pipeline.tasks.layer_encoder import LayerEncoder, open_encoder

log = logging.getLogger(__name__)
DType = Literal["float16", "float32"]
Text = tuple[str, ...]
_FORMAT_VERSION = 1
_BLOCK_WORDS = 1 << 13  # words computed and checksummed together: 100 MB of float32 for `original`
_CACHED_WORDS = 1 << 16  # most word types whose context-free vectors are kept while building


@dataclass(frozen=True)
class Identity:
    """What the values depend on. model: digest of the biLM's weights; texts: of all different texts, sorted."""

    format_version: Count
    model: Sha256
    texts: Sha256
    dtype: DType

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Record:
    """KEY.json, and KEY.part.json with the checksums so far. checksums: XXH3-64 of each block of texts."""

    identity: Identity
    layers: Count
    width: Count
    words: Count
    checksums: list[Xxh3]


class LayerCache:
    """The layers of a set of texts, as read-only views of one memory map."""

    def __init__(self, path: Path, record: Record, texts: Sequence[Text], token_layer: str = "tokens") -> None:
        """path: KEY.layers. texts: the different texts, sorted as stored. token_layer: what layer 0 holds.

        Raises DataError for a damaged file.
        """
        self.path, self.record, self.token_layer = path, record, token_layer
        lengths = np.array([len(text) for text in texts], np.int64)
        self._blocks = _blocks_of(lengths)
        self._first_word = dict(zip(texts, (np.cumsum(lengths) - lengths).tolist(), strict=True))
        self._values = self._mapped()

    @classmethod
    def open_or_build(
        cls,
        folder: str | Path,
        elmo_folder: str | Path,
        texts: Iterable[Text],
        dtype: DType = "float16",
        device: torch.device | str = "cpu",
        between_blocks: Callable[[], None] = lambda: None,
    ) -> "LayerCache":
        """Return the layers of `texts`, computed first if no earlier run has done so.

        elmo_folder: a trained biLM as other commands take it (an exported model, a run's folder, a checkpoint, or a
        name on the hub), or a model of `elmo cove`. device: where to compute. between_blocks: called after each block
        of about 8,000 words, so that it can end the work by an exception; the next call resumes it. Other processes
        that want the same layers wait. Raises DataError for a damaged cache, ConfigError where the layers do not fit
        on the disk.
        """
        require(dtype in ("float16", "float32"), f"dtype={dtype} must be float16 or float32")
        encoder = open_encoder(elmo_folder, device)
        different = sorted(set(texts), key=lambda text: (len(text), text))
        identity = Identity(_FORMAT_VERSION, encoder.digest(), _digest_of_texts(different), dtype)
        path = local_path(folder) / f"{identity.key}.layers"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _record_path(path).exists():
            with _only_process(path):
                if not _record_path(path).exists():
                    _build(path, encoder, different, identity, between_blocks)
        return cls(path, _read_record(_record_path(path), identity), different, encoder.token_layer)

    @property
    def num_layers(self) -> int:
        """L + 1."""
        return self.record.layers

    @property
    def width(self) -> int:
        """D: the number of values of a word in a layer."""
        return self.record.width

    def layers(self, text: Text) -> np.ndarray:
        """Return (L + 1, words, D) of one of the texts, a read-only view without a copy."""
        if text not in self._first_word:
            raise KeyError(f"the text {' '.join(text)[:80]!r} is not among those that this cache was made of")
        size = self.num_layers * self.width
        begin = self._first_word[text] * size
        return self._values[begin : begin + len(text) * size].reshape(self.num_layers, len(text), self.width)

    def verify(self) -> None:
        """Read all values. Raises DataError where a checksum differs from the record's."""
        for number in range(len(self._blocks)):
            self._check_block(number)

    def _mapped(self) -> np.ndarray:
        """Return the values once the file's size and the checksums of its first and last block are right."""
        dtype, count = self.record.identity.dtype, self.record.layers * self.record.width * self.record.words
        wanted, found = count * np.dtype(dtype).itemsize, self.path.stat().st_size if self.path.exists() else -1
        if found != wanted or len(self.record.checksums) != len(self._blocks):
            what = f"it has {found:,} bytes instead of {wanted:,}" if found >= 0 else "it is missing"
            raise _damaged(self.path, what)
        self._values = np.memmap(self.path, dtype, "r") if count else np.zeros(0, dtype)
        for number in {0, len(self._blocks) - 1} if self._blocks else ():
            self._check_block(number)
        return self._values

    def _check_block(self, number: int) -> None:
        size = self.record.layers * self.record.width
        begin, end = (words * size for words in self._blocks[number][2:])
        if _xxh3_64(self._values[begin:end]) != self.record.checksums[number]:
            raise _damaged(self.path, f"the checksum of block {number} is not the one of its record")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: a worker that gets a pickled cache maps the file itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_values"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._values = self._mapped()


def _build(
    path: Path, encoder: LayerEncoder, texts: list[Text], identity: Identity, between_blocks: Callable[[], None]
) -> None:
    """Compute KEY.layers block by block, then write KEY.json. Blocks that a killed process finished are kept."""
    lengths = np.array([len(text) for text in texts], np.int64)
    blocks = _blocks_of(lengths)
    record = Record(identity, encoder.num_layers, encoder.width, int(lengths.sum()), [])
    block_bytes = [(end - begin) * _word_bytes(record) for *_, begin, end in blocks]
    part = path.with_suffix(".part")
    checksums = _checksums_so_far(part, record, block_bytes)
    done = len(checksums)
    _require_room(path, sum(block_bytes[done:]), identity.dtype)
    encoder.cache_vocabulary(frequent_words(texts))
    progress = Progress("biLM layers", record.words)
    progress.start_at(*[blocks[done - 1][3] if done else 0] * 2)
    with open(part, "r+b" if checksums else "wb") as file:
        file.truncate(file.seek(sum(block_bytes[:done])))
        for first, last, _, end in blocks[done:]:
            checksums.append(_write_block(file, encoder, texts[first:last], identity.dtype, path))
            write_json(_record_path(part), asdict(_with(record, checksums)))
            progress.update(end, end)
            between_blocks()
    progress.close()
    os.replace(part, path)
    sync_folder(path.parent)
    write_json(_record_path(path), asdict(_with(record, checksums)))
    _record_path(part).unlink(missing_ok=True)


@torch.no_grad()
def _write_block(file: BinaryIO, encoder: LayerEncoder, texts: list[Text], dtype: DType, path: Path) -> str:
    """Append the layers of texts durably; return their checksum."""
    layers = [layers.float().cpu().numpy().ravel() for layers in encoder.embed(texts)]
    with np.errstate(over="ignore"):
        values = np.concatenate(layers).astype(dtype)
    if not np.isfinite(values).all():
        raise ConfigError(f"{path}: a value of the biLM's layers does not fit {dtype}; use float32, or another biLM")
    file.write(values.data if values.size else b"")
    file.flush()
    os.fsync(file.fileno())
    return _xxh3_64(values)


def _checksums_so_far(part: Path, record: Record, block_bytes: list[int]) -> list[str]:
    """Return the checksums of the blocks that a killed process finished; the last of them is compared."""
    try:
        begun = _read_record(_record_path(part), record.identity)
        kept = len(begun.checksums)
        if not kept or kept > len(block_bytes) or part.stat().st_size < sum(block_bytes[:kept]):
            return []
        with open(part, "rb") as file:
            file.seek(sum(block_bytes[: kept - 1]))
            is_sound = xxhash.xxh3_64_hexdigest(file.read(block_bytes[kept - 1])) == begun.checksums[-1]
        return list(begun.checksums) if is_sound else []
    except (FileNotFoundError, DataError):
        return []


def _require_room(path: Path, needed: int, dtype: DType) -> None:
    free = shutil.disk_usage(path.parent).free
    smaller = "" if dtype == "float16" else ", use float16"
    require(
        needed <= free,
        f"{path.parent} has {free / 1e9:.1f} GB free, but the biLM's layers need {needed / 1e9:.1f} GB more; free some "
        f"space{smaller}, or name another folder",
    )


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Hold KEY.lock, waiting for its holder if there is one. The kernel frees the lock of a process that ends."""
    with path.with_suffix(".lock").open("a") as lock:
        try:
            lock_file(lock)
        except BlockingIOError:
            log.info("waiting for another process that computes %s", path)
            lock_file(lock, wait=True)
        yield


def _blocks_of(lengths: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return (first text, last + 1, first word, last + 1) of blocks of at most _BLOCK_WORDS, or of one longer text."""
    blocks = []
    first = begin = word = 0
    for number, length in enumerate(lengths.tolist()):
        if number > first and word + length - begin > _BLOCK_WORDS:
            blocks.append((first, number, begin, word))
            first, begin = number, word
        word += length
    return [*blocks, (first, len(lengths), begin, word)] if len(lengths) else []


def frequent_words(texts: list[Text]) -> list[str]:
    """Return the words that are worth caching: those that occur more than once, the most frequent ones."""
    counts = Counter(word for text in texts for word in text)
    return [word for word, count in counts.most_common(_CACHED_WORDS) if count > 1]


def _digest_of_texts(texts: list[Text]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(json.dumps(text).encode() + b"\n")
    return found.hexdigest()


def _word_bytes(record: Record) -> int:
    return record.layers * record.width * np.dtype(record.identity.dtype).itemsize


def _with(record: Record, checksums: list[str]) -> Record:
    return Record(record.identity, record.layers, record.width, record.words, list(checksums))


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json") if path.suffix == ".layers" else path.with_name(f"{path.name}.json")


def _read_record(path: Path, identity: Identity) -> Record:
    record: Record = load_json(path, Record, _remedy(path))
    if record.identity != identity:
        raise _damaged(path, "it describes other layers than its name")
    return record


def _xxh3_64(values: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(values.data if values.size else b"")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} is damaged ({what}); {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"remove {path.with_suffix('.json')}, and the layers are computed again"
