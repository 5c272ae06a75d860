"""Write vectors of sentences to one file: HDF5 in the layout of bilm-tf and AllenNLP, npz, safetensors or Parquet.

Keys number the sentences from 0, empty lines included. Each format is written aside and renamed, and has the same bytes
for the same vectors. Vectors are memory-mapped, so that writing them needs little memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.dataset.files import atomic_path, remove_temporaries_of
from pipeline.apply.embed.vector_plan import Parts
from pipeline.config.schema import ConfigError, require


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
    with atomic_path(path) as aside:
        write(aside, parts, keep_sentences)


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
    arrays = dict(_arrays(parts))
    if keep_sentences:
        arrays["sentence_to_index"] = np.array([_sentence_to_index(parts)])
    with open(path, "wb") as file:  # np.savez would add .npz to a path
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: Path, parts: Parts, keep_sentences: bool) -> None:
    from safetensors.numpy import save_file

    save_file(dict(_arrays(parts)), path, {"format": "pt"})


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
