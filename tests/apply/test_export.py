"""A trained model is exported and read back unchanged: in this project's format, in AllenNLP's, and over the hub."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.apply.evaluate import evaluate
from pipeline.apply.export import export, import_weights
from pipeline.apply.load import Trained, load_trained
from pipeline.config.commands import EvaluateCommandConfig, ExportConfig, ImportConfig
from pipeline.config.schema import ConfigError, EvaluateConfig, to_dict
from pipeline.model.formats.pretrained import load_pretrained
from tests import processes
from tests.apply import hub_stand_in
from tests.model.bilm_tf_fixtures import FIXTURES, embed, needs_fixtures
from tests.processes import killed_at

SENTENCE = "w1 wörd7 never-seen w2 漢字"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    output = trained.parent / "exported"
    export(ExportConfig(checkpoint=str(trained), output=str(output)))
    return output


def layers(model: Trained) -> np.ndarray:
    return embed(model.bilm, SENTENCE, model.bilm.initial_states(1))[0]


def evaluated(checkpoint: Path, dataset: Path) -> dict[str, Any]:
    lanes = EvaluateConfig(lanes=8)
    result = evaluate(EvaluateCommandConfig(str(checkpoint), [str(dataset)], accelerator="cpu", evaluate=lanes))
    assert result is not None
    return {key: value for key, value in result.as_dict().items() if key != "checkpoint"}


def contents(files: dict[str, bytes]) -> dict[str, Any]:
    """Return a model's files without the revision of this clone, which may change while the tests run."""
    config = json.loads(files["config.json"])
    del config["facts"]["git_revision"]
    return {**files, "config.json": config}


def contents_of(folder: Path) -> dict[str, Any]:
    return contents({file.name: file.read_bytes() for file in folder.iterdir()})


def test_an_exported_model_has_exactly_the_same_perplexity(trained: Path, exported: Path, dataset: Path) -> None:
    assert evaluated(exported, dataset) == evaluated(trained, dataset)


def test_an_exported_model_holds_everything_needed_to_train_it_further(trained: Path, exported: Path) -> None:
    before, after = load_trained(str(trained)), load_trained(str(exported))
    assert after.words == before.words and after.counts.tolist() == before.counts.tolist()
    assert (after.step, after.dataset_fingerprint, after.has_config) == (before.step, before.dataset_fingerprint, True)
    state = before.bilm.state_dict()
    assert after.bilm.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in after.bilm.state_dict().items())
    for part in ("model", "softmax", "optimizer", "train", "checkpoint", "evaluate"):
        assert to_dict(getattr(after.config, part)) == to_dict(getattr(before.config, part))
    assert after.config.train.max_steps == 60 and after.config.data.lanes == 8


def test_an_exported_model_names_its_training_but_no_paths_of_the_machine(
    exported: Path, trained: Path, dataset: Path
) -> None:
    facts = load_pretrained(exported).facts
    score = evaluated(trained, dataset)
    assert facts["perplexity"] == {
        "both": pytest.approx(score["perplexity"]), "forward": pytest.approx(score["perplexity_forward"]),
        "backward": pytest.approx(score["perplexity_backward"]), "tokens": score["tokens"], "lanes": 8,
    }  # fmt: skip
    step = load_trained(str(trained)).step
    assert facts["tokens"] == step * 8 * 10 and facts["step"] == step and facts["corpus"] == "dataset"
    card = (exported / "README.md").read_text()
    assert f"**{score['perplexity']:.2f}**, forward {score['perplexity_forward']:.2f}" in card
    assert "states start cold in 8 places" in card and f"| {facts['tokens']:,} |" in card
    for path in (exported / "README.md", exported / "config.json"):
        assert str(dataset.parent) not in path.read_text() and str(trained.parent) not in path.read_text()


def test_a_checkpoint_that_was_not_validated_claims_no_perplexity(trained: Path, tmp_path: Path) -> None:
    alone = tmp_path / "some.ckpt"
    alone.write_bytes(next((trained / "checkpoints").glob("*.ckpt")).read_bytes())
    printed = export(ExportConfig(checkpoint=str(alone), output=str(tmp_path / "out"), corpus="Novels of 1890"))
    assert "the held-out perplexity of these weights is not known" in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Held-out perplexity | unknown |" in card and "| Corpus | Novels of 1890 |" in card


def test_an_exported_model_can_be_exported_again(exported: Path, tmp_path: Path) -> None:
    export(ExportConfig(checkpoint=str(exported), output=str(tmp_path / "again")))
    assert contents_of(tmp_path / "again") == contents_of(exported)


@pytest.mark.parametrize("source", ["trained", "exported"])
def test_a_model_exported_to_allennlp_and_imported_again_embeds_the_same(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    location, out = str(request.getfixturevalue(source)), tmp_path / "allennlp"
    printed = export(ExportConfig(checkpoint=location, output=str(out), format="allennlp"))
    assert sorted(file.name for file in out.iterdir()) == ["options.json", "vocab.txt", "weights.hdf5"]
    assert json.loads((out / "options.json").read_text())["char_cnn"]["n_characters"] == 262
    assert (out / "vocab.txt").read_text().startswith("<S>\n</S>\n<UNK>\n")
    with h5py.File(out / "weights.hdf5") as file:
        assert file["char_embed"].shape == (261, 8)
    back = f"elmo import options={out}/options.json weights={out}/weights.hdf5 vocabulary={out}/vocab.txt output=DIR"
    assert back in printed
    options, weights, vocabulary = (str(out / name) for name in ("options.json", "weights.hdf5", "vocab.txt"))
    import_weights(ImportConfig(options, weights, vocabulary, str(tmp_path / "back")))
    before, after = load_trained(location), load_trained(str(tmp_path / "back"))
    assert after.words == before.words and not after.softmax_words and not after.has_config
    assert np.array_equal(layers(after), layers(before))


def test_evaluate_refuses_imported_weights_and_names_the_reason(exported: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "allennlp"
    export(ExportConfig(checkpoint=str(exported), output=str(out), format="allennlp"))
    with pytest.raises(ConfigError, match="holds bilm-tf's or AllenNLP's files; read them with `elmo import` first"):
        load_trained(str(out))
    config = ImportConfig(str(out / "options.json"), str(out / "weights.hdf5"), "", str(tmp_path / "back"))
    assert "no vocabulary" in import_weights(config)
    with pytest.raises(ConfigError, match="has no softmax to predict words with"):
        evaluated(tmp_path / "back", dataset)


@pytest.mark.parametrize("form", ["elmo", "allennlp"])
def test_an_export_that_was_killed_leaves_nothing_that_loads(form: str, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = ExportConfig(checkpoint=str(exported), output=str(out), format=form)
    kills = 0
    while killed_at(kills + 1, lambda: export(config)):
        kills += 1
        with pytest.raises(ConfigError, match=r"the export was cut short|holds no whole checkpoint"):
            load_trained(str(out))
        with pytest.raises(ConfigError, match="no such file"):
            import_weights(ImportConfig(str(out / "options.json"), str(out / "weights.hdf5"), "", str(tmp_path / "b")))
    assert kills == len(list(out.iterdir())) == (6 if form == "elmo" else 3)


@pytest.mark.parametrize("form", ["elmo", "allennlp"])
def test_an_export_to_a_full_disk_ends_with_one_sentence_and_leaves_no_files(
    form: str, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        os._exit(cli.main(["export", f"checkpoint={exported}", f"output={out}", f"format={form}"]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == cli.EXIT_USER_ERROR
    printed = capfd.readouterr().err
    assert f"output={out} cannot be written" in printed and "File too large" in printed and printed.count("\n") == 1
    assert not list(out.iterdir())


def test_an_export_overwrites_only_with_overwrite_true(exported: Path, trained: Path, tmp_path: Path) -> None:
    for form in ("elmo", "allennlp"):
        config = ExportConfig(checkpoint=str(exported), output=str(tmp_path / form), format=form)
        export(config)
        with pytest.raises(ConfigError, match="holds a model; give another folder, or overwrite=true"):
            export(config)
        config.overwrite = True
        export(config)
    with pytest.raises(ConfigError, match="holds other things"):
        export(ExportConfig(checkpoint=str(exported), output=str(trained)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "checkpoint= is missing"),
        (["export", "checkpoint=x"], "output= is missing"),
        (["export", "checkpoint=x", "output=y", "format=onnx"], "format='onnx' must be elmo or allennlp"),
        (["export", "checkpoint=x", "output=y", "format=allennlp", "hub=org/name"], "use format=elmo"),
        (["export", "checkpoint=nothing.ckpt", "output=y"], "nothing.ckpt: no such checkpoint"),
        (["import", "options=x"], "weights= is missing: elmo import options=FILE weights=FILE output=DIR"),
        (["import", "options=x", "weights=y", "output=z"], "options=x: no such file"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == cli.EXIT_USER_ERROR
    printed = capfd.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@needs_fixtures
def test_the_command_imports_the_reference_and_warns_that_allennlp_refuses_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = [f"options={FIXTURES}/options.json", f"weights={FIXTURES}/lm_weights.hdf5"]
    assert cli.main(["import", *theirs, f"vocabulary={FIXTURES}/vocab_test.txt", f"output={tmp_path}/ours"]) == 0
    assert f"Next: elmo embed checkpoint={tmp_path}/ours input=" in capfd.readouterr().out
    pairs = [f"checkpoint={tmp_path}/ours", f"output={tmp_path}/back", "format=allennlp"]
    assert cli.main(["export", *pairs]) == 0
    assert "AllenNLP refuses models without skip connections" in capfd.readouterr().out
    with h5py.File(FIXTURES / "lm_weights.hdf5") as given, h5py.File(tmp_path / "back" / "weights.hdf5") as back:
        names: list[str] = []
        given.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 20 and all(np.array_equal(given[name][...], back[name][...]) for name in names)


def test_a_model_from_the_hub_equals_the_one_that_was_pushed(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

    def elmo(*arguments: str, code: int = 0, **environment: str) -> str:
        log = tmp_path / "log"
        process = processes.Process(*arguments, log=log, environment=hub.environment(tmp_path / "cache") | environment)
        assert process.wait() == code, process.output()
        return process.output()

    with hub_stand_in.running() as hub:
        pushed = elmo("export", f"checkpoint={exported}", f"output={tmp_path}/copy", "hub=org/name")
        assert "pushed   http://127.0.0.1" in pushed
        assert contents(hub.repositories["org/name"]) == contents_of(tmp_path / "copy")
        elmo("export", "checkpoint=org/name@main", f"output={tmp_path}/fetched")
        unknown = elmo("export", "checkpoint=org/other", f"output={tmp_path}/other", code=2)
        assert "org/other at its newest revision is neither a folder here nor on the hub" in unknown
        hub.repositories["org/name"]["model.safetensors"] = b"damaged"
    offline = elmo("export", "checkpoint=org/name", f"output={tmp_path}/again", HF_HUB_OFFLINE="1")
    assert "written" in offline
    for folder in ("fetched", "again"):
        assert contents_of(tmp_path / folder) == contents_of(exported)
    named = {"README.md": (exported / "README.md").read_bytes().replace(b"ORG/NAME", b"org/name")}
    assert contents_of(tmp_path / "copy") == contents_of(exported) | named


def test_only_the_files_of_the_export_are_pushed_to_the_hub(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for name in ("id_rsa", "sub/config.json", "sub/model.safetensors", ".env", "vectors.h5"):
        (out / name).write_text("secret")
    with hub_stand_in.running() as hub:
        pairs = [f"checkpoint={exported}", f"output={out}", "hub=org/name"]
        refused = processes.Process(
            "export", *pairs, log=tmp_path / "log", environment=hub.environment(tmp_path / "cache")
        )
        assert refused.wait() == 2 and "holds other things" in refused.output() and not hub.repositories
        environment = hub.environment(tmp_path / "cache")
        pushed = processes.Process("export", *pairs, "overwrite=true", log=tmp_path / "log2", environment=environment)
        assert pushed.wait() == 0, pushed.output()
        assert sorted(hub.repositories["org/name"]) == sorted(path.name for path in exported.iterdir())
        assert not any(b"secret" in content for content in hub.repositories["org/name"].values())
        card = hub.repositories["org/name"]["README.md"].decode()
    assert 'Elmo.from_pretrained("org/name")' in card and "checkpoint=org/name input=" in card
    assert (
        "note     .env, id_rsa, sub and vectors.h5 were there before: they stay, and are not pushed" in pushed.output()
    )
    assert (out / "id_rsa").read_text() == "secret"


@pytest.mark.parametrize("form", ["elmo", "allennlp"])
def test_other_files_in_a_folder_that_is_overwritten_are_named(form: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    config = ExportConfig(checkpoint=str(exported), output=str(tmp_path), format=form, overwrite=True)
    assert "note     notes.txt was there before: it stays" in export(config)
    (tmp_path / "notes.txt").unlink()
    assert "there before" not in export(config)
