"""`elmo probe pos`: layers do not influence each other, stop by themselves, and count by the definition."""

import json
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data_prep.dataset.files import DataError
from pipeline import cli
from pipeline.config.probes import PosProbeConfig
from pipeline.tasks.probes.layers import EncodedLayers, Hdf5Layers, open_layers
from pipeline.tasks.probes.pos import LinearProbe, Part, train_probes
from tests.tasks.files import DATA, needs_shared
from tests.tasks.probes import data


def arguments(folder: Path, *options: str) -> list[str]:
    """Write the files of a small data set, with a tag in test that training has not; return the arguments."""
    train, dev = (
        data.write_tagged(folder / f"{n}.tsv", size, seed) for n, size, seed in (("train", 60, 1), ("dev", 20, 2))
    )
    test = data.write_tagged(folder / "test.tsv", 20, 3)
    test.write_text(test.read_text() + "the\tXX\n\n")
    return ["pos", f"train={train}", f"dev={dev}", f"test={test}", f"cache_dir={folder / 'layers'}", "max_epochs=30",
            "learning_rate=0.1", "batch_size=4", "patience=8", *options]  # fmt: skip


def probed(model: Path, folder: Path, *options: str, name: str = "result.json") -> dict:
    assert cli.main(["probe", *arguments(folder, *options), f"checkpoint={model}", f"output={folder / name}"]) == 0
    return json.loads((folder / name).read_text())


def test_words_are_learned_by_the_token_layer_and_an_unknown_tag_is_wrong(model: Path, tmp_path: Path) -> None:
    found = probed(model, tmp_path)
    assert [layer["layer"] for layer in found["layers"]] == ["layer 0 (tokens)", "layer 1", "layer 2"]
    token = found["layers"][0]  # the tag follows from the word
    words = found["data"]["test"]["words"]
    assert token["dev"] == 100 and token["test"] == pytest.approx(100 * (words - 1) / words)
    assert found["tags"] == len(set(data.TAGS.values()))


def test_a_second_run_reads_the_kept_layers_and_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    probed(model, tmp_path)
    kept = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "layers").iterdir())
    assert probed(model, tmp_path, name="again.json")["layers"]
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "result.json").read_bytes()
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "layers").iterdir()) == kept


def test_layers_of_another_program_in_one_or_more_files_give_the_same_result(model: Path, tmp_path: Path) -> None:
    expected = probed(model, tmp_path)["layers"]
    text = tmp_path / "text.txt"
    assert cli.main(["probe", *arguments(tmp_path), f"sentences={text}"]) == 0
    lines = text.read_text().splitlines(keepends=True)
    (tmp_path / "a.txt").write_text("".join(lines[:70]))
    (tmp_path / "b.txt").write_text("".join(lines[70:]))
    files = [
        data.embed(model, path, path.with_suffix(".h5")) for path in (text, tmp_path / "a.txt", tmp_path / "b.txt")
    ]
    for number, chosen in enumerate(([files[0]], files[1:])):
        output = tmp_path / f"{number}.json"
        given = [f"layers={path}" for path in chosen]
        assert cli.main(["probe", *arguments(tmp_path), *given, f"output={output}"]) == 0
        found = json.loads(output.read_text())["layers"]
        assert [f"layer {number}" for number in range(3)] == [layer.pop("layer") for layer in found]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == {name: value for name, value in theirs.items() if name != "layer"}


def test_the_files_of_layers_are_closed_after_a_probe_and_after_an_error(model: Path, tmp_path: Path) -> None:
    texts = [("a", "word"), ("another",)]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(map(" ".join, texts)) + "\n")
    config = PosProbeConfig(layers=[str(data.embed(model, text, tmp_path / "x.h5"))])
    with open_layers(config, texts) as source:
        assert isinstance(source, Hdf5Layers)
        file = source._places[0][0]
        assert file and len(list(source.read([0, 1]))) == 2
    assert not file  # closed
    opened = ExitStack()
    with pytest.raises(DataError, match="hold 2 sentences, but there are 3"), opened:
        Hdf5Layers([*texts, ("more",)], config.layers, opened)
    h5py.File(config.layers[0], "r+").close()  # fails while the file is open for reading


def made_up(layers: list[int], config: PosProbeConfig) -> list:
    """Train on some of three layers of random vectors, of which layer 1 holds the tag and the others partly do."""
    chance = np.random.default_rng(0)
    tags = [chance.integers(0, 4, int(chance.integers(1, 9))) for _ in range(90)]
    vectors = [chance.normal(size=(3, len(of), 6)).astype(np.float32) for of in tags]
    for of, x in zip(tags, vectors, strict=True):
        x[1, np.arange(len(of)), of] += 8
        x[2, np.arange(len(of)), of] += 1
    texts = [(str(number),) for number in range(len(tags))]

    def encode(block: list[tuple[str, ...]]) -> list[np.ndarray]:
        return [vectors[int(number)][layers] for (number,) in block]

    source = EncodedLayers(texts, encode, tuple(f"layer {number}" for number in layers), 6)
    bounds = {"train": range(0, 50), "dev": range(50, 70), "test": range(70, 90)}
    parts = {name: Part(numbers, [tags[number] for number in numbers]) for name, numbers in bounds.items()}
    return train_probes(config, source, parts, 4)


CONFIG = PosProbeConfig(batch_size=7, max_epochs=40, patience=2, learning_rate=0.02)


def test_a_layer_is_trained_as_if_it_were_alone() -> None:
    together = made_up([0, 1, 2], CONFIG)
    assert together == [made_up([number], CONFIG)[0] for number in range(3)]
    assert len({score.epochs for score in together}) > 1  # so that some went on after others had stopped
    assert together[1].test > together[2].test > together[0].test


def test_early_stopping_keeps_the_best_epoch_on_dev() -> None:
    probe = LinearProbe.start("layer 0", 2, 2)
    for epoch, (dev, is_stopped) in enumerate([(50, False), (70, False), (70, False), (60, False), (65, True)], 1):
        with torch.no_grad():
            probe.bias.fill_(epoch)
        probe.note(epoch, dev, patience=3)
        assert probe.is_stopped == is_stopped
    probe.restore_best()
    assert probe.score.best_epoch == 2 and probe.score.dev == 70 and probe.bias.tolist() == [2, 2]


def test_a_linear_layer_finds_what_gradient_descent_finds_in_numpy() -> None:
    """One step of Adam from zero is the learning rate against the gradient's sign, for any gradient that counts."""
    found = made_up([1], PosProbeConfig(batch_size=99, max_epochs=1, learning_rate=0.02))
    chance = np.random.default_rng(0)
    tags = [chance.integers(0, 4, int(chance.integers(1, 9))) for _ in range(90)]
    x = np.concatenate([chance.normal(size=(3, len(of), 6)).astype(np.float32)[1] for of in tags])
    y = np.concatenate(tags)
    x[np.arange(len(y)), y] += 8
    size = sum(map(len, tags[:50]))
    error = 0.25 - np.eye(4)[y[:size]]
    weight, bias = (-0.02 * np.sign(g) for g in (x[:size].T @ error, error.sum(0)))
    size, end = sum(map(len, tags[:50])), sum(map(len, tags[:70]))
    right = (x[size:end] @ weight + bias).argmax(1) == y[size:end]
    assert found[0].dev == pytest.approx(100 * right.mean())


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("no file", ("is not an HDF5 file", "absent.h5")),
        ("text", ("is not an HDF5 file",)),
        ("few", ("hold 99 sentences, but there are 101",)),
        ("many", ("holds more sentences than the 101",)),
        ("counts", ("key 3 holds", "words instead of")),
        ("sentences", ("key 1 holds another sentence",)),
        ("order", ("holds another sentence",)),
        ("width", ("key 2 has 3 layers of 4 values, the first sentence 3 of 10",)),
        ("integers", ("key 0 must hold numbers",)),
        ("names", ("key 0 must hold numbers",)),
        ("nan", ("sentence 5 has a value that is not finite",)),
        ("index", ("sentence_to_index",)),
    ],
)
def test_layers_of_other_sentences_are_refused_in_one_sentence(
    fault: str, parts: tuple[str, ...], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "x.h5"
    assert cli.main(["probe", *arguments(tmp_path), f"sentences={text}"]) == 0
    data.embed(model, text, path)
    _damage(path, fault)
    capsys.readouterr()
    place = tmp_path / ("absent.h5" if fault == "no file" else "x.h5")
    assert cli.main(["probe", *arguments(tmp_path), f"layers={place}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(part in said for part in parts), said


def _damage(path: Path, fault: str) -> None:
    if fault == "text":
        path.write_text("no HDF5")
        return
    with h5py.File(path, "r+") as file:
        words = file["3"].shape[1]
        if fault == "few":
            del file["100"], file["99"]
        elif fault == "many":
            file["101"] = file["100"][()]
        elif fault in ("counts", "width", "integers", "names"):
            key = {"counts": "3", "width": "2"}.get(fault, "0")
            shape = {"counts": (3, words + 1, 10), "width": (3, file["2"].shape[1], 4)}.get(fault, file[key].shape)
            del file[key]
            file["a" if fault == "names" else key] = np.zeros(shape, np.int64 if fault == "integers" else np.float32)
        elif fault == "nan":
            file["5"][0, 0, 0] = np.nan
        elif fault == "sentences":
            index = json.loads(file["sentence_to_index"][0])
            file["sentence_to_index"][0] = json.dumps({k: v for k, v in index.items() if v != "1"})
        elif fault == "order":  # two sentences of as many words change places
            index = json.loads(file["sentence_to_index"][0])
            (one, a), (two, b) = next(
                (x, y) for x in index.items() for y in index.items() if x < y and len(x[0].split()) == len(y[0].split())
            )
            file["sentence_to_index"][0] = json.dumps({**index, one: b, two: a})
        elif fault == "index":
            file["sentence_to_index"][0] = "no JSON"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["output=absent/result.json"], "absent is no folder"),
        (["layers=x.h5"], "give either checkpoint=, a biLM, or layers="),
        (["train=[]"], "train= is missing"),
        (["dev="], "dev= is missing"),
        (["tag_column=7"], "column 7 is asked for"),
        (["learning_rate=0"], "learning_rate=0"),
        (["patience=0"], "patience=0 must be at least 1"),
        (["checkpoint="], "give either checkpoint="),
    ],
)
def test_wrong_options_are_one_sentence(
    change: list[str], said: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", *arguments(tmp_path), f"checkpoint={model}", *change]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


def test_unequal_columns_name_file_and_line(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(tmp_path)
    (tmp_path / "dev.tsv").write_text("a\tDT\nb\n")
    assert cli.main(["probe", *given, f"checkpoint={model}"]) == 2
    assert f"{tmp_path / 'dev.tsv'}, line 2 has 1 columns" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["probe"], ["probe", "pos", "wsd"], ["probe", "ner"], ["probe", "pos", "semcor=x"]])
def test_a_probe_must_be_named(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(given) == 2
    assert capsys.readouterr().err.startswith("elmo probe: ")


@pytest.mark.parametrize("name", ["pos", "wsd", "pairs"])
def test_help_lists_the_keys_of_a_probe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", name, "-h"]) == 0
    assert {"pos": "patience=3", "wsd": "sense_index=", "pairs": "precision=32-true"}[name] in capsys.readouterr().out


@needs_shared
def test_real_tagged_words_are_read_by_their_fine_tags(tmp_path: Path, model: Path) -> None:
    dev = DATA / "pos" / "ewt.dev.tsv.xz"
    text = tmp_path / "text.txt"
    assert cli.main(["probe", "pos", f"train={dev}", f"dev={dev}", f"sentences={text}"]) == 0
    assert len(text.read_text().splitlines()) == 2 * 2001
