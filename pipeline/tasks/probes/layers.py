"""Frozen layers of sentences, whoever computed them: a biLM, CoVe, or a program that wrote HDF5.

A probe reads layers through `LayerSource` only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from data_prep.dataset.remote import default_cache_dir
from data_prep.dataset.typed_json import parse_json
from pipeline.config.probes import LayerProbeConfig, PosProbeConfig
from pipeline.config.schema import ConfigError, require
from pipeline.model.backend.device import choose_device
from pipeline.tasks.examples.lines import write_lines
from pipeline.tasks.layer_cache import DType, LayerCache, frequent_words
from pipeline.tasks.layer_encoder import open_encoder

Text = tuple[str, ...]
Encode = Callable[[list[Text]], list[np.ndarray]]
"""Returns (layers, words, width) of each text."""

_BLOCK_WORDS = 1 << 13  # words that are encoded together
_INDEX = "sentence_to_index"  # AllenNLP's and `elmo embed`'s: {sentence: its key}


class LayerSource(Protocol):
    """The layers of a list of sentences, which have numbers from 0. names: of the layers, the lowest first."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def width(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield (layers, words, width) of each of these sentences."""
        ...


class EncodedLayers:
    """Layers that an encoder computes whenever they are read, in blocks of sentences."""

    def __init__(self, texts: Sequence[Text], encode: Encode, names: tuple[str, ...], width: int) -> None:
        self._texts, self._encode, self.names, self.width = texts, encode, names, width

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        block: list[Text] = []
        words = 0
        for number in numbers:
            block.append(self._texts[number])
            words += len(block[-1])
            if words >= _BLOCK_WORDS:
                yield from self._encode(block)
                block, words = [], 0
        if block:
            yield from self._encode(block)


class CachedLayers:
    """Layers that lie on disk, for probes that read them many times."""

    def __init__(self, texts: Sequence[Text], cache: LayerCache, names: tuple[str, ...]) -> None:
        self._texts, self._cache, self.names, self.width = texts, cache, names, cache.width

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        return (self._cache.layers(self._texts[number]) for number in numbers)


class Hdf5Layers:
    """Layers in HDF5 files of the layout of `elmo embed`: keys "0", "1", ... of (layers, words, width).

    The sentences of all files, one file after the other, must be those of the texts.
    """

    def __init__(self, texts: Sequence[Text], paths: Sequence[str], opened: ExitStack) -> None:
        """opened: gets the files, and closes them. Raises DataError for other sentences, or no layers."""
        self._places: list[tuple[Any, str, str]] = []
        self._shape = (0, 0)
        for path in paths:
            self._add(path, texts, opened)
        if len(self._places) != len(texts):
            held = f"{', '.join(paths)} hold {len(self._places):,} sentences"
            raise DataError(f"{held}, but there are {len(texts):,}; {_remedy()}")
        self.width = self._shape[1]
        self.names = layer_names(self._shape[0])

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            file, key, path = self._places[number]
            try:
                values = np.asarray(file[key][()], np.float32)
            except OSError as error:
                raise DataError(f"{path}: sentence {key} cannot be read ({error}); write the file again") from None
            if not np.isfinite(values).all():
                raise DataError(f"{path}: sentence {key} has a value that is not finite; write the file again")
            yield values[None] if values.ndim == 2 else values

    def _add(self, path: str, texts: Sequence[Text], opened: ExitStack) -> None:
        h5py = _h5py()
        try:
            file = opened.enter_context(h5py.File(local_path(path, "layers"), "r"))
        except OSError as error:
            raise DataError(f"{path} is not an HDF5 file that can be read ({_one_line(error)}); {_remedy()}") from None
        known, first = _sentences_of(path, file), len(self._places)
        for number in range(len(file) - (_INDEX in file)):
            self._check(path, file, str(number), texts, first + number, known)
            self._places.append((file, str(number), path))

    def _check(
        self, path: str, file: Any, key: str, texts: Sequence[Text], number: int, known: dict[str, str] | None
    ) -> None:
        if number >= len(texts):
            raise DataError(f"{path} holds more sentences than the {len(texts):,} that there are; {_remedy()}")
        found, text = file.get(key), texts[number]
        shape = getattr(found, "shape", ())
        if len(shape) not in (2, 3) or found.dtype.kind != "f":
            raise DataError(f"{path}: key {key} must hold numbers of (layers, words, width); {_remedy()}")
        layers, words, width = (1, *shape) if len(shape) == 2 else shape
        if words != len(text) or (known is not None and not _is_of(texts, number, known.get(line_of(text)), key)):
            what = f"{words} words instead of {len(text)}" if words != len(text) else "another sentence"
            raise DataError(f"{path}: key {key} holds {what} for {line_of(text)[:60]!r}; {_remedy()}")
        self._shape = self._shape if number else (layers, width)
        if (layers, width) != self._shape or not layers * width:
            what = f"{layers} layers of {width} values, the first sentence {self._shape[0]} of {self._shape[1]}"
            raise DataError(f"{path}: key {key} has {what}; all need the same")


def layer_names(num_layers: int, token_layer: str = "") -> tuple[str, ...]:
    """Return layer 0, layer 1, ... token_layer: what layer 0 holds, where it is known."""
    names = [f"layer {number}" for number in range(num_layers)]
    return tuple([f"{names[0]} ({token_layer})", *names[1:]] if token_layer else names)


@contextmanager
def open_layers(config: LayerProbeConfig, texts: Sequence[Text]) -> Iterator[LayerSource]:
    """Yield the layers that the config names, of these sentences; their files are open inside the block.

    Layer 0 knows no context. Raises ConfigError, DataError.
    """
    with ExitStack() as opened:
        yield _layers(config, texts, opened)


def _layers(config: LayerProbeConfig, texts: Sequence[Text], opened: ExitStack) -> LayerSource:
    require(
        bool(config.checkpoint) != bool(config.layers),
        "give either checkpoint=, a biLM, or layers=, HDF5 files of the layers of all sentences",
    )
    if config.layers:
        return Hdf5Layers(texts, config.layers, opened)
    device = choose_device(config.accelerator)
    if isinstance(config, PosProbeConfig):  # reads all layers in each epoch
        folder = Path(config.cache_dir) if config.cache_dir else default_cache_dir() / "layers"
        dtype: DType = config.keep
        cache = LayerCache.open_or_build(folder, config.checkpoint, texts, dtype, device)
        cache.verify()
        return CachedLayers(texts, cache, layer_names(cache.num_layers, cache.token_layer))
    encoder = open_encoder(config.checkpoint, device)
    encoder.cache_vocabulary(frequent_words(list(texts)))
    names = layer_names(encoder.num_layers, encoder.token_layer)
    return EncodedLayers(texts, lambda block: _arrays(encoder.embed(block)), names, encoder.width)


def write_sentences(config: LayerProbeConfig, texts: Sequence[Text]) -> str:
    """Write sentences=, the text for another program whose layers are then given as layers=."""
    write_lines(local_path(config.sentences, "sentences"), map(line_of, texts))
    return f"{config.sentences}: {len(texts):,} sentences; give their layers, an HDF5 file, as layers="


def line_of(text: Text) -> str:
    """Return the line of a sentence in a text file. White space inside a word becomes _."""
    return " ".join("_".join(word.split()) or "_" for word in text)


def _arrays(layers: Sequence[Tensor]) -> list[np.ndarray]:
    return [of_text.float().cpu().numpy() for of_text in layers]


def _is_of(texts: Sequence[Text], number: int, stored: str | None, key: str) -> bool:
    """Return whether the sentence of this number, which an index stores under `stored`, is that of the key.

    Of equal sentences the index has one key.
    """
    if stored is None or not stored.isdecimal():
        return False
    other = number + int(stored) - int(key)
    return 0 <= other < len(texts) and line_of(texts[other]) == line_of(texts[number])


def _sentences_of(path: str, file: Any) -> dict[str, str] | None:
    """Return {sentence: key} of a file that holds its sentences, None for one that does not."""
    if _INDEX not in file:
        return None
    try:
        stored = file[_INDEX][0]
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        stored = b""
    found: dict[str, str] = parse_json(
        stored if isinstance(stored, bytes) else str(stored).encode(), dict[str, str], f"{path}: {_INDEX}", _remedy()
    )
    return found


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError("layers= needs h5py: pip install 'elmo-pipeline[weights]'") from None
    return h5py


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _remedy() -> str:
    return "write the text by sentences=FILE, and the layers of its lines by the program, as `elmo embed` does"
