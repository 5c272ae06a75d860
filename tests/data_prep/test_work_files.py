"""The records that a preparation keeps are read back as typed values, or refused with a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset.files import DataError
from data_prep.plan import PrepPlan
from tests.corpora import bytes_of

OPTIONS = {"heldout": 100, "shard_tokens": 4000, "chunk_tokens": 500}
STEPS = ("encode", "merge", "shard")
# the number of passes that have written each
FILES = {"plan.json": 1, "unit-000000.json": 1, "merge.json": 2, "train-000000.json": 3}


def begin(prepare: Any, corpus: list[str], out: Path, steps: int) -> None:
    """Run the first passes, the last of them only in part, so that the dataset is not finished."""
    for step in STEPS[:steps]:
        prepare(corpus, out, **OPTIONS, step=step, tasks=1 + (step == "shard"))


DAMAGE = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "null": lambda text: "null",
    "deep": lambda text: "[" * 10_000,
    "without keys": lambda text: "{}",
    "all values null": lambda text: json.dumps(dict.fromkeys(json.loads(text))),
    "all values text": lambda text: json.dumps({key: "x" for key in json.loads(text)}),
    "all values huge": lambda text: json.dumps({key: 10**30 for key in json.loads(text)}),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_record_is_reported_in_one_sentence_with_the_remedy(
    name: str, kind: str, prepare, corpus, tmp_path
) -> None:
    out = tmp_path / "out"
    begin(prepare, corpus[:1], out, FILES[name])
    path = out / ".work" / name
    path.write_text(DAMAGE[kind](path.read_text()))
    with pytest.raises(DataError, match=rf"{name} is damaged \(.*start the preparation again") as error:
        prepare(corpus[:1], out, **OPTIONS)
    assert "\n" not in str(error.value)
    prepare(corpus[:1], out, **OPTIONS, overwrite=True)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_identity_is_reported_and_the_dataset_stays(kind: str, prepare, corpus, tmp_path) -> None:
    prepare(corpus[:1], tmp_path / "out", **OPTIONS)
    identity = tmp_path / "out" / ".prepared.json"
    identity.write_text(DAMAGE[kind](identity.read_text()))
    before = bytes_of(tmp_path / "out")
    with pytest.raises(DataError, match=r"\.prepared\.json is damaged .*overwrite=true"):
        prepare(corpus[:1], tmp_path / "out", **OPTIONS)
    assert bytes_of(tmp_path / "out") == before


def test_a_plan_is_read_back_unchanged(prepare, corpus, tmp_path) -> None:
    for heldout in (100, 0.25):
        out = tmp_path / str(heldout)
        prepare(corpus, out, **(OPTIONS | {"heldout": heldout}), step="encode")
        plan = PrepPlan.load(out / ".work/plan.json")
        plan.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (out / ".work/plan.json").read_bytes()
        assert type(plan.options.heldout) is type(heldout) and plan.sources[0].path == corpus[0]


def test_a_plan_with_units_of_no_source_is_refused(prepare, corpus, tmp_path) -> None:
    begin(prepare, corpus, tmp_path / "out", 1)
    path = tmp_path / "out/.work/plan.json"
    plan = json.loads(path.read_text())
    plan["units"][0]["source"] = 9
    path.write_text(json.dumps(plan))
    with pytest.raises(DataError, match="its units are not in order, or of no source"):
        prepare(corpus, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("name", ["lengths.npy", "keys.npy", "map.npy", "counts.npy"])
def test_a_damaged_array_of_a_spill_is_reported_in_one_sentence(name: str, prepare, corpus, tmp_path) -> None:
    begin(prepare, corpus[:1], tmp_path / "out", 1 if name == "counts.npy" else 2)
    path = tmp_path / "out/.work/unit-000000/spill-0000" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"{name} is damaged") as error:
        prepare(corpus[:1], tmp_path / "out", **OPTIONS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("passes", "name"), [(1, "words.txt"), (2, "tokens.u24")])
@pytest.mark.parametrize("damage", ["cut", "other ids"])
def test_damaged_text_of_a_spill_is_reported_in_one_sentence(
    passes: int, name: str, damage: str, prepare, corpus, tmp_path
) -> None:
    begin(prepare, corpus[:1], tmp_path / "out", passes)
    path = tmp_path / "out/.work/unit-000000/spill-0000" / name
    data = path.read_bytes()
    path.write_bytes(data[:-20] if damage == "cut" else data.replace(data[60:66], b"\n\xff\xff\xff\xff\xff"))
    with pytest.raises(DataError, match=rf"{name} is damaged; start the preparation again") as error:
        prepare(corpus[:1], tmp_path / "out", **OPTIONS)
    assert "\n" not in str(error.value)
    prepare(corpus[:1], tmp_path / "out", **OPTIONS, overwrite=True)


@pytest.mark.parametrize("location", ["s3://bucket/x", "gs:x", "http:/host/x", "pipe:touch x"])
def test_a_url_as_input_or_output_is_refused(location: str, prepare, corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = [] if location.startswith("s3://") else [(corpus, location)]  # s3 and gs can be written
    for inputs, output in (([location], "out"), ([*corpus, location], "out"), *outputs):
        with pytest.raises(DataError, match="looks like a URL and must be a local path"):
            prepare(inputs, output)
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["corpus"]


def test_a_local_file_whose_name_holds_a_colon_can_be_prepared(prepare, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part:0.txt").write_text("a b\nc d\n")
    assert prepare(["part:0.txt"], "./out:1").num_sentences == 2


@pytest.mark.parametrize("alone", [True, False])
def test_only_temporary_files_with_our_own_names_are_removed(alone: bool, prepare, corpus, tmp_path) -> None:
    out = tmp_path / "out"
    begin(prepare, corpus[:1], out, 2)
    torn = [".train-000000.tar.0123abcd.tmp", *([".index.json.0123abcd.tmp", ".lexicon.tsv.0123abcd.tmp"] * alone)]
    foreign = ["notes.tmp", ".editor.tmp", ".paper.tex.0123abcd.tmp", ".photos.tar.0123abcd.tmp", "my.tar.tmp"]
    for name in [*torn, *foreign]:
        (out / name).write_text("text")
    (out / "folder.tmp").mkdir()
    for step in [None] if alone else ["shard"]:
        prepare(corpus[:1], out, **OPTIONS, step=step)
    left = {path.name for path in out.iterdir()}
    assert {*foreign, "folder.tmp"} <= left and not left & set(torn)
