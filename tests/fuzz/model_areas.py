"""Damaged models: folders to share, the files of bilm-tf and AllenNLP, and unfinished embeddings."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from data_prep.dataset.files import sha256_of
from pipeline.model.formats.pretrained import load_pretrained
from tests.fuzz.cage import Fault, call, elmo, note
from tests.fuzz.mutators import FORGED, HARMLESS, damage_folder, forged, set_in_json
from tests.fuzz.world import Use, World, damaged_copy, digest


def embed(world: World, model: Path) -> str:
    output = model.parent / "vectors.npz"
    elmo("embed", f"checkpoint={model}", f"input={world.heldout}", f"output={output}", "accelerator=cpu")
    return digest(*np.load(output).values())


def score(world: World, model: Path) -> str:
    output = model.parent / "scores.jsonl"
    elmo("score", f"checkpoint={model}", f"input={world.heldout}", f"output={output}", "accelerator=cpu")
    return output.read_text()


def export(world: World, model: Path) -> str:
    output = model.parent / "exported"
    elmo("export", f"checkpoint={model}", f"output={output}")
    return weights_of(output)


def export_allennlp(world: World, model: Path) -> str:
    output = model.parent / "allennlp"
    elmo("export", f"checkpoint={model}", f"output={output}", "format=allennlp")
    return str({name: (output / name).read_text() for name in ("options.json", "vocab.txt")}) + _hdf5(output)


def load(world: World, model: Path) -> str:
    found = load_pretrained(model)
    state = found.bilm.state_dict()
    return f"{found.config} {found.words} {digest(found.counts, *(state[name].numpy() for name in sorted(state)))}"


def weights_of(model: Path) -> str:
    return "".join(digest(*load_file(path).values()) for path in sorted(model.glob("*.safetensors"))) + str(
        (model / "vocabulary.txt").read_text()
    )


def _hdf5(folder: Path) -> str:
    return digest(*_datasets(folder / "weights.hdf5").values())


def _datasets(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if hasattr(item, "dtype") else None)
    return dict(sorted(found.items()))


FORGED_HDF5 = [*FORGED, "text", "external"]
MODEL_USES: list[Use] = [load, embed, score, export, export_allennlp]


def model(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage a file of a model folder. The card only informs."""
    copy = damaged_copy(world.model, folder, ["*.json", "*.json", "*.safetensors", "*.txt", "*.npy"], chance)
    world.check(chance.choices(MODEL_USES, [5, 2, 1, 1, 1])[0], copy)


def forged_model(world: World, chance: Random, folder: Path, case: int, kind: str = "") -> None:
    """Replace tensors and make config.json fit. Nothing may be loaded but finite float32 of the right shape."""
    copy = folder / "model"
    shutil.copytree(world.model, copy)
    path = copy / chance.choice(["model.safetensors", "softmax.safetensors"])
    tensors, kind = load_file(path), kind or chance.choice(FORGED)
    name = chance.choice(sorted(tensors))
    note(f"{kind} in {name}")
    tensors[f"{name}x" if kind == "extra" else name] = forged(tensors[name], kind, chance)
    if kind == "missing":
        del tensors[name]
    save_file(tensors, path)
    entry = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    set_in_json(copy / "config.json", f"files/{path.name}", entry)
    state = call(load_pretrained, copy).bilm.state_dict()
    if kind not in HARMLESS or any(tensor.dtype != torch.float32 for tensor in state.values()):
        raise Fault(f"wrong result in silence: {kind} is loaded as it is")


def imported(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage options.json, weights or vocabulary of bilm-tf. The import must read what an independent reader reads."""
    _import(damaged_copy(world.weights, folder, ["options.json"] * 2 + ["weights.hdf5", "vocab.txt"], chance))


def forged_weights(world: World, chance: Random, folder: Path, case: int, kind: str = "") -> None:
    """Change the type, shape or values of a dataset in the HDF5 file, or move its values to another file."""
    copy = folder / "weights"
    shutil.copytree(world.weights, copy)
    found = _datasets(copy / "weights.hdf5")
    name, kind = chance.choice(sorted(found)), kind or chance.choice(FORGED_HDF5)
    note(f"{kind} in {name}")
    (folder / "foreign").write_bytes(found[name].tobytes())
    values = np.array([b"text"] * 3) if kind == "text" else forged(found[name], kind, chance)
    with h5py.File(copy / "weights.hdf5", "r+") as file:
        if kind != "extra":
            del file[name]
        if kind == "external":
            outside = [(str(folder / "foreign"), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=outside)
        elif kind != "missing":
            file.create_dataset(f"{name}x" if kind == "extra" else name, data=values)
    _import(copy)
    if kind not in HARMLESS:
        raise Fault(f"wrong result in silence: {kind} is imported")


def _import(copy: Path) -> None:
    """Import, export again, and compare with what h5py and json read in the damaged files."""
    output, back = copy.parent / "imported", copy.parent / "back"
    files = [f"options={copy / 'options.json'}", f"weights={copy / 'weights.hdf5'}", f"vocabulary={copy / 'vocab.txt'}"]
    elmo("import", *files, f"output={output}")
    elmo("export", f"checkpoint={output}", f"output={back}", "format=allennlp")
    given, read = _datasets(copy / "weights.hdf5"), _datasets(back / "weights.hdf5")
    if given.keys() != read.keys() or any(_differ(given[name], read[name]) for name in given):
        raise Fault("wrong result in silence: other weights than the file holds")
    if any(not np.isfinite(values).all() for values in read.values()):
        raise Fault("wrong result in silence: weights that are not finite are imported")
    for name, value in _leaves(json.loads((back / "options.json").read_text())).items():
        before = _leaves(json.loads((copy / "options.json").read_text())).get(name)
        if before is not None and before != value and name != "char_cnn.n_characters":
            raise Fault(f"wrong result in silence: {name} is {before!r} and was read as {value!r}")
    words = [w for w in (copy / "vocab.txt").read_text("utf-8-sig").split("\n") if w.strip()]
    kept = set((back / "vocab.txt").read_text("utf-8").split("\n"))
    if missing := [word for word in words if word.strip() not in kept]:
        raise Fault(f"wrong result in silence: the word {missing[0]!r} is lost")


def _differ(given: np.ndarray, read: np.ndarray) -> bool:
    return given.shape != read.shape or given.astype(np.float32).tobytes() != read.tobytes()


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {n: v for key in value for n, v in _leaves(value[key], f"{prefix}.{key}" if prefix else key).items()}


def finish_embedding(world: World, vectors: Path) -> str:
    elmo("embed", *world.embedding(vectors))
    return digest(*np.load(vectors / "out.npz").values())


def search(world: World, corpus: Path) -> str:
    return world.neighbors(corpus)


def vectors(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage the plan or a part of an unfinished embedding, or of an index of neighbours."""
    sound, use = chance.choice([(world.vectors, finish_embedding), (world.corpus, search)])
    copy = folder / "vectors"
    shutil.copytree(sound, copy)
    inside = copy / "out.npz.parts" if use is finish_embedding else copy
    note(damage_folder(inside, ["plan.json", "plan.json", "part-*"], chance))
    world.check(use, copy)
