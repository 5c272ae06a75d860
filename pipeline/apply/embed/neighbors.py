"""`elmo neighbors`: find the nearest occurrences of a word in context, as in the paper's Table 4 ("play" in sport).

The corpus is embedded once into an index folder: unit vectors of one layer in float16, in parts, and their sentences.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.dataset.files import DataError, atomic_path, describe_os_error, write_json
from data_prep.dataset.locations import local_path
from pipeline.apply.embed.embed import Machine, embed_sentences, machine_of
from pipeline.apply.embed.layer_choice import LayerChoice
from pipeline.apply.embed.vector_parts import Text, Vectors, make_parts, plan_parts
from pipeline.apply.embed.vector_plan import FAISS, Part, Parts
from pipeline.apply.load import load_trained
from pipeline.config.commands import NeighborsConfig
from pipeline.config.schema import ConfigError, require
from pipeline.model.bilm import BiLM

log = logging.getLogger(__name__)
APPROXIMATE_FROM = 5_000_000  # words: an exact search reads every vector, 10 GB with the original model
_CONTEXT = 60  # characters shown on each side
_CELLS_VISITED = 32


@dataclass(frozen=True)
class Neighbor:
    """An occurrence of a word. place: FILE:LINE. position: of the word in its sentence."""

    cosine: float
    place: str
    words: list[str]
    position: int

    def __str__(self) -> str:
        left, right = " ".join(self.words[: self.position]), " ".join(self.words[self.position + 1 :])
        left = left if len(left) <= _CONTEXT else f"…{left[-_CONTEXT + 1 :]}"
        right = right if len(right) <= _CONTEXT else f"{right[: _CONTEXT - 1]}…"
        return f"{self.cosine:7.3f}  {left:>{_CONTEXT}} [{self.words[self.position]}] {right:{_CONTEXT}}  {self.place}"


@dataclass(frozen=True)
class Neighbors:
    """The result of a search. query: the word in its sentence. searched: number of occurrences in the search."""

    query: Neighbor
    found: list[Neighbor]
    searched: int
    is_approximate: bool

    def __str__(self) -> str:
        how = "approximate search of" if self.is_approximate else "all of"
        head = f"The nearest {len(self.found)} of {how} {self.searched:,} occurrences, by cosine"
        return "\n".join([head, str(self.query), *map(str, self.found)])

    def as_dict(self) -> dict[str, Any]:
        found = {"query": vars(self.query), "searched": self.searched, "is_approximate": self.is_approximate}
        return found | {"neighbors": [vars(neighbor) for neighbor in self.found]}


def neighbors(config: NeighborsConfig) -> Neighbors:
    """Search the corpus; embed it first unless its index exists."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint, a run's folder or an exported model")
    require(bool(config.corpus), "corpus= is missing: give files, folders or globs of one tokenised sentence a line")
    require("-" not in config.corpus, "corpus= must be files, as it is read again; save standard input first")
    output, words = local_path(config.output, "output"), config.sentence.split()
    places = [position for position, word in enumerate(words) if word == config.word]
    require(
        len(places) >= config.occurrence,
        f"sentence={config.sentence!r} holds word={config.word!r} {len(places)} times, occurrence={config.occurrence} "
        "was asked for; words are parted by spaces, so punctuation too stands alone",
    )
    machine = machine_of(config)
    bilm = load_trained(config.checkpoint, softmax=False).bilm
    require(config.layer not in ("all", "mix"), f"layer={config.layer} must be top, average or a layer's number")
    vectors = Vectors(LayerChoice(config.layer, bilm.config.num_layers + 1), "float16", config.precision, unit=True)
    try:
        parts = _index(config, bilm, vectors, machine)
        position = places[config.occurrence - 1]
        query = _unit_vector(bilm, vectors.choice, words, position)
        at = Neighbor(1.0, "the sentence given", words, position)
        result = _search(parts, query, at, config)
        if config.output:
            write_json(output, result.as_dict())
    except OSError as error:
        raise DataError(describe_os_error(error)) from error
    return result


def _index(config: NeighborsConfig, bilm: BiLM, vectors: Vectors, machine: Machine) -> Parts:
    """Return the index of the corpus; embed the parts that are missing."""
    first = local_path(config.corpus[0], "corpus")
    folder = local_path(config.index, "index") if config.index else first.with_name(f"{first.name}.neighbors")
    require(bool(config.index) or first.exists(), f"corpus={first} is no single file: give index=, a folder to keep")
    text, elsewhere = Text(config.corpus), "another index= folder"
    parts = plan_parts(folder, text, vectors, bilm, folder, config.overwrite, elsewhere)
    if parts.missing():
        (folder / FAISS).unlink(missing_ok=True)
        make_parts(parts, bilm, vectors, machine)
    return parts


def _unit_vector(bilm: BiLM, choice: LayerChoice, words: list[str], position: int) -> np.ndarray:
    (layers,) = embed_sentences(bilm, [words])
    vector = choice.of(list(layers))[0][position].float().cpu().numpy()
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _search(parts: Parts, query: np.ndarray, at: Neighbor, config: NeighborsConfig) -> Neighbors:
    total = sum(part.words for part in parts.parts)
    is_approximate = config.any and (
        config.approximate == "true" or (config.approximate == "auto" and total > APPROXIMATE_FROM)
    )
    if is_approximate:
        found = [_neighbor(parts, *one) for one in _search_faiss(parts, query, config.k)]
        return Neighbors(at, found, total, True)
    best: list[tuple[float, Part, int]] = []  # cosine, part and row, best first, ties in the order of the corpus
    searched = 0
    for part in parts.parts:  # memory holds one part at a time
        rows = np.arange(part.words) if config.any else _occurrences(parts, part, config.word)
        if len(rows):
            cosines = _vectors(parts, part)[rows].astype(np.float32) @ query
            nearest = np.argsort(-cosines, kind="stable")[: config.k]
            best += [(float(cosines[n]), part, int(rows[n])) for n in nearest]
            best = sorted(best, key=lambda one: -one[0])[: config.k]
            searched += len(rows)
    require(bool(best), f"word={config.word!r} does not occur in the corpus; try any=true, or another spelling")
    return Neighbors(at, [_neighbor(parts, *one) for one in best], searched, False)


def _vectors(parts: Parts, part: Part) -> np.ndarray:
    """Return (words of the part, 2 P), memory-mapped."""
    return parts.flat(part.number).reshape(part.words, parts.width)


def _occurrences(parts: Parts, part: Part, word: str) -> np.ndarray:
    """Return the rows of a part that hold the word. A text without the word is not split into words."""
    text = "\n".join(parts.lines(part.number))
    if word not in text:
        return np.zeros(0, np.int64)
    return np.array([row for row, found in enumerate(text.split()) if found == word], np.int64)


def _neighbor(parts: Parts, cosine: float, part: Part, row: int) -> Neighbor:
    for number, words in enumerate(parts.sentences(part.number)):
        if row < len(words):
            return Neighbor(cosine, parts.place_of(part, number), words, row)
        row -= len(words)
    raise AssertionError("a row beyond its part")


def _search_faiss(parts: Parts, query: np.ndarray, k: int) -> list[tuple[float, Part, int]]:
    """Return (cosine, part, row) by inner products in float16, in the cells of the index nearest the query."""
    index = _read_faiss(parts)
    index.nprobe = _CELLS_VISITED
    cosines, rows = index.search(query[None].astype(np.float32), k)
    begin = np.concatenate([[0], np.cumsum([part.words for part in parts.parts])])
    found = []
    for cosine, row in zip(cosines[0].tolist(), rows[0].tolist(), strict=True):
        if row >= 0:
            number = int(np.searchsorted(begin, row, side="right")) - 1
            found.append((cosine, parts.parts[number], row - int(begin[number])))
    return found


def _read_faiss(parts: Parts) -> Any:
    """Return the index; build it if there is none or it cannot be read."""
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "a corpus of this size is searched by an index: pip install 'elmo-pipeline[neighbors]', or "
            "approximate=false for a search that reads every vector"
        ) from None
    path, total = parts.folder / FAISS, sum(part.words for part in parts.parts)
    if path.exists():
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
            if (index.ntotal, index.d) == (total, parts.width):
                return index
        except RuntimeError:  # faiss raises it for a damaged file
            pass
        log.warning("%s is damaged and is made again", path)
    with atomic_path(path) as aside:
        faiss.write_index(_build_faiss(parts), str(aside))
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)


def _build_faiss(parts: Parts) -> Any:
    """Return an index: learn cells from a sample of all parts, then add one part after another as float16."""
    import faiss

    total = sum(part.words for part in parts.parts)
    cells = max(1, min(4096, int(4 * total**0.5), total // 40))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(parts.width), parts.width, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    wanted, stride = 64 * cells, max(1, total // (64 * cells))
    sample = [_vectors(parts, part)[::stride].astype(np.float32) for part in parts.parts]
    index.train(np.concatenate(sample)[: 2 * wanted])
    for part in parts.parts:
        if part.words:
            index.add(np.asarray(_vectors(parts, part)).astype(np.float32))
    return index
