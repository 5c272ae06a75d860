"""Write vectors of sentences to one file: HDF5 in the layout of bilm-tf and AllenNLP, npz, safetensors or Parquet.

Keys number the sentences from 0, empty lines included. Each format is written aside and renamed, and has the same bytes
for the same vectors. Vectors are memory-mapped, so that writing them needs little memory.
"""

import itertools
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.dataset.files import atomic_path, remove_temporaries_of
from pipeline.apply.embed.vector_plan import Parts
from pipeline.config.schema import ConfigError, require

_MOST_TENSORS = 1_000_000  # the header of a .safetensors file, about 90 bytes a tensor, may have 100 MB


def format_of(output: str) -> str:
    """Return the format that a file's name asks for. Raises ConfigError for other names or a missing library."""
    suffixes = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".safetensors": "safetensors", ".parquet": "parquet"}
    name = suffixes.get(Path(output).suffix, "")
    require(bool(name), f"output={output} must end in one of {', '.join(suffixes)}")
    library, extra = {"hdf5": ("h5py", "weights"), "parquet": ("pyarrow", "parquet")}.get(name, ("numpy", ""))
    try:
        __import__(library)
    except ImportError:
        raise ConfigError(f"output={output} needs {library}: pip install 'elmo-pipeline[{extra}]'") from None
    return name


def write_vectors(path: Path, parts: Parts, keep_sentences: bool = True) -> None:
    """Write the finished parts to one file. keep_sentences: add AllenNLP's `sentence_to_index` to HDF5 and npz."""
    write = _WRITERS[format_of(str(path))]
    remove_temporaries_of(path)  # left by a killed call
    needed, free = sum(parts.path(part.number, "npy").stat().st_size for part in parts.parts), free_bytes(path)
    require(needed <= free, f"{path} needs {needed / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free; free some")
    with atomic_path(path) as aside:
        write(aside, parts, keep_sentences)


def free_bytes(path: Path) -> int:
    """Return the free bytes where `path` is to be. On a full disk h5py would crash the process."""
    return shutil.disk_usage(path.absolute().parent).free


def check_sentences(output: Path, parts: Parts) -> None:
    """Raise ConfigError for more sentences than the format can hold, before anything is computed."""
    sentences = sum(part.sentences for part in parts.parts)
    is_possible = output.suffix != ".safetensors" or sentences <= _MOST_TENSORS
    require(
        is_possible,
        f"{output} would have {sentences:,} sentences, and a .safetensors file at most {_MOST_TENSORS:,}; choose .h5, "
        ".npz or .parquet",
    )


def _arrays(parts: Parts) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each sentence's key and its vectors: (layers, n, values), or (n, values) if one layer was chosen."""
    for part in parts.parts:
        for number, (_, vectors) in enumerate(parts.read(part.number), part.first):
            yield str(number), vectors[0] if len(vectors) == 1 else vectors


def _sentence_to_index(parts: Parts) -> str:
    lines = (line for part in parts.parts for line in parts.lines(part.number))
    return json.dumps({line: str(number) for number, line in enumerate(lines)})


def _write_hdf5(path: Path, parts: Parts, keep_sentences: bool) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for key, vectors in _arrays(parts):
            file.create_dataset(key, data=vectors)
        if keep_sentences:
            index = file.create_dataset("sentence_to_index", (1,), dtype=h5py.string_dtype())
            index[0] = _sentence_to_index(parts)


def _write_npz(path: Path, parts: Parts, keep_sentences: bool) -> None:
    index = [("sentence_to_index", np.array([_sentence_to_index(parts)]))] if keep_sentences else []
    with zipfile.ZipFile(path, "w") as archive:  # np.savez would hold the maps of all parts at once
        for key, values in itertools.chain(_arrays(parts), index):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def _write_safetensors(path: Path, parts: Parts, keep_sentences: bool) -> None:
    """Write header and values one after the other: save_file would hold the maps of all parts at once."""
    dtype, header, end = {"float32": "F32", "float16": "F16"}[parts.vectors["dtype"]], {}, 0
    for key, values in _arrays(parts):
        header[key] = {"dtype": dtype, "shape": values.shape, "data_offsets": (end, end + values.nbytes)}
        end += values.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in _arrays(parts):
            file.write(np.ascontiguousarray(values).tobytes())


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
