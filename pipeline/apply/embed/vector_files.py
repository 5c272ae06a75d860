"""Write vectors of sentences to one file: HDF5 in the layout of bilm-tf and AllenNLP, npz, safetensors or Parquet.

Keys number the sentences from 0, empty lines included. Each format is written aside and renamed, needs bounded memory,
and has the same bytes for the same vectors.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.dataset.files import atomic_path, remove_temporaries_of
from pipeline.apply.embed.vector_plan import Parts
from pipeline.config.schema import ConfigError, require

_SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16"}
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date a zip file can hold


class Row(NamedTuple):
    """A sentence. text: its line as given. vectors: (layers, n, values), or (n, values) if one layer was chosen."""

    number: int
    text: str
    vectors: np.ndarray


def format_of(output: str) -> str:
    """Return the format that a file's name asks for. Raises ConfigError for other names or a missing library."""
    suffixes = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".safetensors": "safetensors", ".parquet": "parquet"}
    name = suffixes.get(Path(output).suffix)
    require(name is not None, f"output={output} must end in one of {', '.join(suffixes)}")
    assert name is not None
    library = {"hdf5": ("h5py", "weights"), "parquet": ("pyarrow", "parquet")}.get(name)
    if library is not None:
        try:
            __import__(library[0])
        except ImportError:
            raise ConfigError(
                f"output={output} needs {library[0]}: pip install 'elmo-pipeline[{library[1]}]'"
            ) from None
    return name


def write_vectors(path: Path, parts: Parts, keep_sentences: bool = True) -> None:
    """Write the finished parts to one file. keep_sentences: add AllenNLP's `sentence_to_index` to HDF5 and npz."""
    write: Callable[[Path, Parts, bool], None] = _WRITERS[format_of(str(path))]
    remove_temporaries_of(path)  # left by a killed call
    with atomic_path(path) as aside:
        write(aside, parts, keep_sentences)


def _rows(parts: Parts) -> Iterator[Row]:
    for part in parts.parts:
        for offset, (text, vectors) in enumerate(parts.read(part.number)):
            yield Row(part.first + offset, text, vectors[0] if len(vectors) == 1 else vectors)


def _write_hdf5(path: Path, parts: Parts, keep_sentences: bool) -> None:
    import h5py

    sentence_to_index = {}
    with h5py.File(path, "w") as file:
        for row in _rows(parts):
            file.create_dataset(str(row.number), data=row.vectors)
            if keep_sentences:
                sentence_to_index[row.text] = str(row.number)
        if keep_sentences:
            index = file.create_dataset("sentence_to_index", (1,), dtype=h5py.string_dtype())
            index[0] = json.dumps(sentence_to_index)


def _write_npz(path: Path, parts: Parts, keep_sentences: bool) -> None:
    sentence_to_index = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:

        def add(name: str, array: np.ndarray) -> None:
            with file.open(zipfile.ZipInfo(f"{name}.npy", _EARLIEST), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

        for row in _rows(parts):
            add(str(row.number), row.vectors)
            if keep_sentences:
                sentence_to_index[row.text] = str(row.number)
        if keep_sentences:
            add("sentence_to_index", np.array([json.dumps(sentence_to_index)]))


def _write_safetensors(path: Path, parts: Parts, keep_sentences: bool) -> None:
    """Write safetensors. The header comes first and holds every offset, computed from the lengths."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    layers, width, dtype = parts.vectors["choice"]["count"], parts.width, parts.vectors["dtype"]
    end = 0
    for part in parts.parts:
        for offset, words in enumerate(parts.sentences(part.number)):
            begin, end = end, end + layers * len(words) * width * np.dtype(dtype).itemsize
            shape = [len(words), width] if layers == 1 else [layers, len(words), width]
            entry = {"dtype": _SAFETENSORS_TYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
            header[str(part.first + offset)] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts.parts:
            flat = parts.flat(part.number)
            file.write(np.ascontiguousarray(flat).data if flat.size else b"")


def _write_parquet(path: Path, parts: Parts, keep_sentences: bool) -> None:
    """Write a row for each word: sentence, position, word, and a column for each layer. Empty lines have no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    choice = parts.vectors["choice"]
    names = [f"layer_{k}" for k in range(choice["count"])] if choice["count"] > 1 else ["vector"]
    vector = pa.list_(pa.float16() if parts.vectors["dtype"] == "float16" else pa.float32(), parts.width)
    columns = [("sentence", pa.int64()), ("position", pa.int32()), ("word", pa.string())]
    with pq.ParquetWriter(path, pa.schema([*columns, *((name, vector) for name in names)])) as writer:
        for part in parts.parts:
            rows = [(n, text.split(), v) for n, (text, v) in enumerate(parts.read(part.number), part.first) if text]
            if not rows:
                continue
            lengths = [len(words) for _, words, _ in rows]
            values = np.concatenate([vectors for *_, vectors in rows], 1)
            table = [
                pa.array(np.repeat([number for number, *_ in rows], lengths), pa.int64()),
                pa.array(np.concatenate([np.arange(length) for length in lengths]), pa.int32()),
                pa.array([word for _, words, _ in rows for word in words], pa.string()),
                *(pa.FixedSizeListArray.from_arrays(pa.array(layer.ravel()), type=vector) for layer in values),
            ]
            writer.write_table(pa.table(table, schema=writer.schema))


_WRITERS = {"hdf5": _write_hdf5, "npz": _write_npz, "safetensors": _write_safetensors, "parquet": _write_parquet}
