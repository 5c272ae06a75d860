"""Models of ELMoForManyLangs: the numbers of its own code (tests/model/many_langs/README.md), and damaged folders."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pipeline import Elmo, cli
from pipeline.characters import BEGIN_WORD, END_WORD, PAD, Dictionary
from pipeline.config.schema import ConfigError
from pipeline.model.elmo.elmo import ElmoModule
from pipeline.model.formats.elmoformanylangs import load_many_langs
from pipeline.model.formats.pretrained import load_pretrained, save_pretrained
from tests.model.many_langs.make import LATER, MODELS, SENTENCES

HERE = Path(__file__).parent / "many_langs"
NAMES = sorted(MODELS)
TOLERANCE = 1e-5


def theirs(name: str, call: str, count: int) -> list[np.ndarray]:
    with np.load(HERE / f"{name}.npz") as vectors:
        return [vectors[f"{call}_{number}"] for number in range(count)]


def assert_theirs(found: list[Any], name: str, call: str) -> None:
    for ours, wanted in zip(found, theirs(name, call, len(found)), strict=True):
        assert ours.shape == wanted.shape
        assert np.allclose(ours, wanted, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def imported(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "model"
    assert cli.main(["import", "format=elmoformanylangs", f"path={HERE / name}", f"output={folder}"]) == 0
    return folder


def test_the_layers_are_theirs(name: str, imported: Path) -> None:
    assert_theirs(Elmo.from_pretrained(imported).embed(SENTENCES), name, "first")


def test_a_sentence_alone_and_cached_words_have_the_same_vectors(name: str, imported: Path) -> None:
    elmo = Elmo.from_pretrained(imported)
    alone = [elmo.embed([sentence])[0] for sentence in SENTENCES]
    assert_theirs(alone, name, "first")
    elmo.cache_vocabulary(["bank", "the", "bankbankbank"])
    cached = elmo.embed(SENTENCES)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-5) for a, b in zip(cached, alone, strict=True))
    elmo.bilm.encoder.char_embed.mul_(2)  # the cache notices, and is filled again
    elmo_of_changed = ElmoModule(elmo.bilm, 0)
    assert torch.allclose(elmo.embed(SENTENCES[:1])[0], elmo_of_changed.embed(SENTENCES[:1])[0], atol=1e-6)


def test_kept_states_are_theirs(name: str, imported: Path) -> None:
    """Their batches have the longest sentence first."""
    elmo = Elmo.from_pretrained(imported, stateful=True)
    for call, sentences in (("first", SENTENCES), ("later", LATER)):
        order = sorted(range(len(sentences)), key=lambda n: -len(sentences[n]))
        found = dict(zip(order, elmo.embed([sentences[n] for n in order]), strict=True))
        assert_theirs([found[n] for n in range(len(sentences))], name, call)


def test_the_command_writes_their_average(name: str, imported: Path, tmp_path: Path) -> None:
    plain = [0, 4]  # sentences that a line of text can hold
    (tmp_path / "text").write_text("".join(" ".join(SENTENCES[n]) + "\n" for n in plain))
    arguments = [f"checkpoint={imported}", f"input={tmp_path / 'text'}", f"output={tmp_path / 'out.h5'}"]
    assert cli.main(["embed", *arguments, "layers=average", "accelerator=cpu"]) == 0
    with_words = [n for n, sentence in enumerate(SENTENCES) if sentence]
    averages = theirs(name, "average", len(with_words))
    with h5py.File(tmp_path / "out.h5") as file:
        for line, number in enumerate(plain):
            assert np.allclose(file[str(line)][...].squeeze(), averages[with_words.index(number)].squeeze(), atol=1e-5)


def test_it_is_saved_and_trained_like_any_other(name: str, imported: Path, tmp_path: Path) -> None:
    elmo = Elmo.from_pretrained(imported, trainable=True)
    before = elmo(SENTENCES[:2]).mixed[0]
    before.square().sum().backward()
    grads = {name: p.grad for name, p in elmo.bilm.named_parameters()}
    assert all(grad is not None and bool(grad.any()) for grad in grads.values()), grads
    elmo.save_pretrained(tmp_path / "again")
    assert torch.equal(Elmo.from_pretrained(tmp_path / "again")(SENTENCES[:2]).mixed[0], before)
    assert load_pretrained(tmp_path / "again").config == elmo.bilm.config
    card = (tmp_path / "again/README.md").read_text()
    assert "characters.txt" in card and "UTF-8" not in card


@pytest.mark.parametrize("num_known", [3, 255, 256, 300])
def test_characters_and_bounds_have_ids_of_their_own(num_known: int) -> None:
    known = tuple(chr(0x4E00 + k) for k in range(num_known))
    dictionary = Dictionary((*known, "<oov>"))
    word, rows = "".join(known), dictionary.rows(["<bos>", "<eos>", "".join(known), "?"], 400)
    ids = rows[2, 2 : len(word) + 2].tolist()
    assert len(set(ids) | {256, 257, 258, 259, 260, rows[3, 2]}) == num_known + 6
    assert max(ids) < dictionary.num_characters and rows.dtype == np.int32
    assert rows[3, 1:].tolist() == [BEGIN_WORD, dictionary.id_of(num_known), END_WORD, *[PAD] * 397]
    assert rows[:2, 1:5].tolist() == [[258, 256, 259, 260], [258, 257, 259, 260]]


def test_what_needs_bytes_is_refused(imported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    elmo = Elmo.from_pretrained(imported)
    for wrong in (lambda: elmo.character_ids(SENTENCES), lambda: elmo(torch.ones(1, 1, 10, dtype=torch.int64))):
        with pytest.raises(ConfigError, match="give it words, not character ids"):
            wrong()
    with pytest.raises(ConfigError, match="each word a string"):
        elmo.embed([[("a", "b")]])  # type: ignore[list-item]
    output = f"output={tmp_path / 'out'}"
    assert cli.main(["export", f"checkpoint={imported}", output, "format=allennlp"]) == 2
    assert "for which format=allennlp has no place" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["finetune", f"from={imported}", f"data={tmp_path}", f"run.dir={tmp_path / 'run'}"]) == 2
    assert "only models over UTF-8 bytes can be trained" in capfd.readouterr().err


def test_settings_that_the_folder_lacks_are_those_that_the_program_ships(tmp_path: Path) -> None:
    folder = shutil.copytree(HERE / "words", tmp_path / "model")
    write(folder / "config.json", {"config_path": "../configs/cnn_50_100_512_4096_sample.json"})
    with pytest.raises(ConfigError, match=r"is \(12, 3\), and \(12, 100\) by its settings and dictionaries"):
        load_many_langs(folder)  # they are for larger weights


class Foreign:
    """A pickle of this calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("called",)


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def lines(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        entries = (folder / file).read_text(encoding="utf-8").split("\n")[:-1]
        (folder / file).write_text("".join(f"{line}\n" for line in change(entries)), encoding="utf-8")

    return damage


def setting(section: str, **values: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        settings = json.loads((folder / "tiny.json").read_text())
        settings[section] |= values
        write(folder / "tiny.json", settings)

    return damage


def tensors(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        state = dict(torch.load(folder / file, weights_only=True))
        torch.save(change(state), folder / file)

    return damage


def with_tensor(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state | {"projection.bias": values["value"]}


HUGE = 10**9
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "is no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "no settings": (lambda f: (f / "tiny.json").unlink(), r"tiny\.json: no such file, though config\.json names it"),
    "no characters": (lambda f: (f / "char.dic").unlink(), r"char\.dic: no such file"),
    "no words": (lambda f: (f / "word.dic").unlink(), r"word\.dic: no such file"),
    "no encoder": (lambda f: (f / "encoder.pkl").unlink(), r"encoder\.pkl: no such file"),
    "settings elsewhere": (lambda f: write(f / "config.json", {"config_path": "../../x/else.json"}), "else.json: no"),
    "not json": (lambda f: (f / "config.json").write_text("{"), r"config\.json is damaged"),
    "another config": (lambda f: write(f / "config.json", {}), "config_path"),
    "an entry twice": (lines("char.dic", lambda e: [*e, e[3]]), r"char\.dic:\d+: '七' stands there twice"),
    "a word twice": (lines("word.dic", lambda e: [*e, "bank\t12"]), r"word\.dic:13: 'bank' stands there twice"),
    "two white spaces": (lines("word.dic", lambda e: [*e, "\xa0\t12"]), "stands there twice"),
    "an id twice": (lines("word.dic", lambda e: [*e, "new\t4"]), "the id 5 is missing or stands there twice"),
    "a gap": (lines("char.dic", lambda e: [*e[:5], *e[6:]]), "the id 5 is missing"),
    "no id": (lines("char.dic", lambda e: [*e, "x"]), "'x' is not an entry, a tab and its id"),
    "no number": (lines("char.dic", lambda e: [*e, "x\tfive"]), "is not an entry, a tab and its id"),
    "two tabs": (lines("char.dic", lambda e: [*e, "x\ty\t5"]), "is not an entry, a tab and its id"),
    "no bound": (lines("char.dic", lambda e: [x for x in e if "<eow>" not in x]), r"char\.dic lacks <eow>"),
    "no unknown": (lines("word.dic", lambda e: e[1:]), r"word\.dic lacks <oov>"),
    "not utf-8": (lambda f: (f / "char.dic").write_bytes(b"\xff\t0\n"), r"char\.dic is not UTF-8 text"),
    "one entry more": (
        lines("word.dic", lambda e: [*e, "new\t12"]),
        r"word_emb_layer\.embedding\.weight is \(12, 3\), and \(13, 3\) by its settings and dictionaries",
    ),
    "an lstm": (setting("encoder", name="lstm"), "encoder.name is 'lstm', and must be elmo"),
    "an lstm of characters": (setting("token_embedder", name="lstm"), "token_embedder.name is 'lstm', and must be cnn"),
    "words alone": (setting("token_embedder", char_dim=0), "a model of whole words"),
    "another activation": (setting("token_embedder", activation="gelu"), "activation"),
    "too wide": (setting("token_embedder", filters=[[11, 2]]), "each width from 1 to model.max_characters=10"),
    "other sizes": (setting("encoder", dim=7), r"is \(24, 4\), and \(28, 4\)"),
    "many layers": (setting("encoder", n_layers=HUGE), "forward_layer_2.input_linearity.weight is absent"),
    "huge": (setting("token_embedder", char_dim=HUGE, word_dim=HUGE), r"and \(12, 1000000000\)"),
    "a negative clip": (setting("encoder", cell_clip=-1), "cell_clip"),
    "a foreign pickle": (lambda f: (f / "encoder.pkl").write_bytes(pickle.dumps(Foreign(), 2)), "cannot be read"),
    "a foreign torch file": (tensors("encoder.pkl", lambda s: {"a": Foreign()}), "cannot be read as weights"),
    "cut short": (lambda f: (f / "encoder.pkl").write_bytes((f / "encoder.pkl").read_bytes()[:-999]), "cannot be read"),
    "a list": (tensors("encoder.pkl", lambda s: list(s.values())), "holds no named tensors"),
    "a tensor less": (tensors("encoder.pkl", lambda s: dict(list(s.items())[1:])), "is absent, and "),
    "a tensor more": (tensors("encoder.pkl", lambda s: s | {"more": torch.ones(2)}), "more is .*, and absent"),
    "whole numbers": (tensors("token_embedder.pkl", with_tensor(value=torch.ones(4).long())), "the numbers"),
    "few numbers": (tensors("token_embedder.pkl", with_tensor(value=torch.ones(1).expand(4))), "the numbers"),
    "not finite": (tensors("token_embedder.pkl", with_tensor(value=torch.full((4,), np.nan))), "NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_folders_are_refused_in_one_sentence(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(HERE / "words", tmp_path / "theirs")
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(ConfigError, match=message) as error:
        load_many_langs(folder)
    assert "\n" not in str(error.value) and "called" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["format=elmoformanylangs", "output=out"],
            "path= is missing: elmo import format=elmoformanylangs path=FOLDER",
        ),
        (["options=o", "weights=w", "path=p", "output=out"], "path= does not go with format=allennlp"),
        (["format=elmoformanylangs", "path=p", "vocabulary=v", "output=out"], "vocabulary= does not go with"),
        (["format=elmoformanylangs", "path=p"], "output= is missing"),
    ],
)
def test_keys_of_the_other_format_are_refused(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["import", *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "characters.txt").write_text("a\n"), "characters.txt has 2 bytes"),
        (lambda f: (f / "words.txt").unlink(), "words.txt is missing"),
        (lambda f: edit_config(f, lambda c: c["files"].pop("characters.txt")), "does not name characters.txt"),
        (lambda f: edit_config(f, lambda c: c["model"].pop("dictionary")), "model_sha256"),
    ],
)
def test_a_damaged_dictionary_of_a_model_folder_is_refused(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    save_pretrained(tmp_path, load_many_langs(HERE / "words"))
    change(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_pretrained(tmp_path)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    write(folder / "config.json", config)


def test_words_are_encoded_alike_in_every_batch() -> None:
    bilm = load_many_langs(HERE / "words")
    rows = torch.from_numpy(bilm.encoder.alphabet.rows(["<bos>", "<eos>", "bank", "a"], bilm.config.max_characters))
    torch.testing.assert_close(bilm.encoder(rows)[2:3], bilm.encoder(rows[2:3]), rtol=1e-6, atol=1e-5)
