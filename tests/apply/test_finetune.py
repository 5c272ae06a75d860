"""`elmo finetune`: its vocabularies, its weights, the table it prints, and the settings it refuses."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.dataset.open import open_dataset
from pipeline import cli
from pipeline.apply.evaluate import evaluate
from pipeline.apply.export import export
from pipeline.apply.load import load_trained
from pipeline.apply.watch.status import read_status
from pipeline.config.commands import EvaluateCommandConfig, ExportConfig
from pipeline.config.schema import ConfigError, EvaluateConfig
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from tests.apply.finetuning import at_step, finetune_here, plan_of
from tests.train import runs, wandb_files

EACH_STEP = ["checkpoint.keep_last=9", "train.max_steps=20"]


def perplexity(checkpoint: Path | str, data: Path) -> tuple[float, float, float]:
    config = EvaluateCommandConfig(str(checkpoint), [str(data)], accelerator="cpu", evaluate=EvaluateConfig(lanes=8))
    result = evaluate(config)
    assert result is not None
    return result.perplexity.forward, result.perplexity.backward, result.perplexity.both


def record_of(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "finetune.json").read_text()))


def figures(row: dict[str, Any]) -> tuple[float, float, float]:
    return row["forward"], row["backward"], row["both"]


@pytest.fixture(scope="module")
def kept(trained: Path, dataset: Path, domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tune for an epoch with the source's words."""
    run_dir = tmp_path_factory.mktemp("kept") / "run"
    finetune_here(trained, domain, run_dir, "checkpoint.keep_last=9")
    return run_dir


def test_perplexity_falls_on_the_domain_and_the_table_agrees_with_evaluate(
    trained: Path, dataset: Path, domain: Path, kept: Path
) -> None:
    record = record_of(kept)
    assert record["after"]["domain"]["both"] < 0.9 * record["before"]["domain"]["both"]
    for name, data in (("domain", domain), ("general", dataset)):
        assert figures(record["before"][name]) == pytest.approx(perplexity(trained, data), rel=1e-6)
        assert figures(record["after"][name]) == pytest.approx(perplexity(kept, data), rel=1e-6)
    assert record["is_comparable"] and record["source"]["path"].endswith("step-00000060.ckpt")


def test_the_printed_table_has_all_figures_and_says_if_they_do_not_compare(
    trained: Path, domain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind, is_comparable in (("keep", True), ("extend", False)):
        finetune_here(trained, domain, tmp_path / kind, f"finetune.vocabulary={kind}", "train.max_steps=2")
        message = capfd.readouterr().out
        rows = {line.split()[0]: line for line in message.splitlines() if line.startswith(("domain ", "general "))}
        assert set(rows) == {"domain", "general"} and rows["domain"].count("->") == 5
        assert ("NOT compare" in message) == (not is_comparable)
        for row in (record_of(tmp_path / kind)[when][name] for when in ("before", "after") for name in rows):
            assert f"{row['both']:,.1f}" in message and f"{row['bits_a_character']:,.3f}" in message
            assert f"{row['unknown']:,}" in message


def test_the_first_checkpoint_equals_the_source_bitwise(trained: Path, domain: Path, kept: Path) -> None:
    source, begun = load_trained(str(trained)), at_step(kept, 0)
    assert list(runs.differences(source.bilm.state_dict(), begun["state_dict"])) == []
    assert begun["optimizer_states"][0]["state"] == {}
    assert runs.curve(kept)[0]["val/perplexity"] == pytest.approx(record_of(kept)["before"]["domain"]["both"], rel=1e-6)


def test_words_of_the_domain_are_looked_up_in_the_vocabulary_of_the_source(
    trained: Path, domain: Path, tmp_path: Path
) -> None:
    plan, data = plan_of(trained, domain, tmp_path / "run"), open_dataset(domain)
    words = load_trained(str(trained)).words
    assert bytes(plan.vocabulary()["words"].numpy()).decode().split("\n") == words
    ids, spelled = {word: number for number, word in enumerate(words)}, data.lexicon.words()
    split = data.splits["train"]
    tokens = [spelled[token] for chunk in range(split.num_chunks) for token in split.chunk(chunk)]
    expected = [ids.get(word, 2) for word in tokens]
    found = np.concatenate([plan.corpus.vocabulary.targets(split.chunk(c)) for c in range(split.num_chunks)])
    assert found.tolist() == expected and 0.05 < expected.count(2) / len(expected) < 0.9
    counts = Counter(expected)  # no token of the shards is <S>
    assert plan.vocabulary()["counts"].tolist() == [counts[number] for number in range(len(words))]


@pytest.mark.parametrize("kind", ["extend", "new"])
@pytest.mark.parametrize("how", ["mean", "encoder"])
def test_rows_of_shared_words_are_copied_bitwise(
    trained: Path, domain: Path, tmp_path: Path, kind: str, how: str
) -> None:
    pairs = [f"finetune.vocabulary={kind}", f"finetune.new_rows={how}", "data.vocab_min_count=2", *EACH_STEP]
    finetune_here(trained, domain, tmp_path / "run", *pairs)
    source, begun = load_trained(str(trained)), load_trained(str(tmp_path / "run/checkpoints/step-00000000.ckpt"))
    lexicon = open_dataset(domain).lexicon
    counts = dict(zip(lexicon.words(), lexicon.counts.tolist(), strict=True))
    often = {word for word in lexicon.words()[3:] if counts[word] >= 2}
    assert set(begun.words) == often | {"<S>", "</S>", "<UNK>"} | (set(source.words) if kind == "extend" else set())
    assert begun.words[:3] == ["<S>", "</S>", "<UNK>"]
    order = [counts.get(word, 0) for word in begun.words[3:]]
    assert order == sorted(order, reverse=True)
    place = {word: number for number, word in enumerate(source.words)}
    shared = [(number, place[word]) for number, word in enumerate(begun.words) if word in place]
    new = [number for number, word in enumerate(begun.words) if word not in place]
    assert len(shared) > 50 and len(new) > 50
    here, there = map(torch.tensor, zip(*shared, strict=True))
    for mine, theirs in zip(begun.bilm.softmax.parameters(), source.bilm.softmax.parameters(), strict=True):
        assert torch.equal(mine[here], theirs[there]) and bool(mine[new].isfinite().all())
    rows = begun.bilm.softmax.weight[new]
    assert bool((rows == rows[0]).all()) == (how == "mean")
    biases = begun.bilm.softmax.bias[new]
    assert biases[:20].mean() > biases[-20:].mean()  # frequent words come first
    assert runs.curve(tmp_path / "run")[20]["val/perplexity"] < runs.curve(tmp_path / "run")[0]["val/perplexity"]


def test_a_new_vocabulary_equals_that_of_a_pretraining_on_the_same_text(
    trained: Path, domain: Path, tmp_path: Path
) -> None:
    plan = plan_of(trained, domain, tmp_path / "run", "finetune.vocabulary=new", "data.vocab_min_count=2")
    lexicon = open_dataset(domain).lexicon
    assert bytes(plan.vocabulary()["words"].numpy()).decode().split("\n") == lexicon.words(0, plan.vocab_size)
    ids = np.arange(len(lexicon))
    assert (plan.corpus.vocabulary.targets(ids) == np.where(ids < plan.vocab_size, ids, 2)).all()


def test_a_fine_tuned_model_can_be_used_like_any_other(
    trained: Path, dataset: Path, domain: Path, tmp_path: Path
) -> None:
    """Export it, evaluate it, and fine-tune it on another text, from its run and from its export."""
    finetune_here(trained, domain, tmp_path / "first", "finetune.vocabulary=extend", "train.max_steps=20")
    export(ExportConfig(checkpoint=str(tmp_path / "first"), output=str(tmp_path / "exported")))
    assert perplexity(tmp_path / "exported", domain) == perplexity(tmp_path / "first", domain)
    assert str(trained) not in (tmp_path / "exported/config.json").read_text()
    for number, source in enumerate(("first", "exported")):
        finetune_here(tmp_path / source, dataset, tmp_path / f"again{number}", "train.max_steps=20")
        record = record_of(tmp_path / f"again{number}")
        assert record["after"]["domain"]["both"] < record["before"]["domain"]["both"]
    a, b = (record_of(tmp_path / f"again{n}") for n in (0, 1))
    assert a["before"] == b["before"] and a["after"] == b["after"]


def test_a_run_that_has_begun_no_longer_needs_its_source(
    trained: Path, dataset: Path, domain: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "source")
    pairs = ["finetune.vocabulary=extend", "optimizer.schedule=constant", "checkpoint.keep_last=9"]
    finetune_here(tmp_path / "source", domain, tmp_path / "whole", *pairs, "train.max_steps=30")
    finetune_here(tmp_path / "source", domain, tmp_path / "parts", *pairs, "train.max_steps=10")
    shutil.rmtree(tmp_path / "source")
    finetune_here(tmp_path / "source", domain, tmp_path / "parts", *pairs, "train.max_steps=30")
    assert list(runs.differences(at_step(tmp_path / "whole", 30), at_step(tmp_path / "parts", 30))) == []
    whole, parts = record_of(tmp_path / "whole"), record_of(tmp_path / "parts")
    assert whole == parts


def test_a_finished_fine_tuning_is_not_repeated_but_a_missing_table_is_made(
    trained: Path, domain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    finetune_here(trained, domain, run_dir, "train.max_steps=5")
    record = record_of(run_dir)
    for lost in (False, True):
        if lost:  # killed between the last checkpoint and the table
            kept = {name: value for name, value in record.items() if name != "after"}
            (run_dir / "finetune.json").write_text(json.dumps(kept))
            (run_dir / "end.json").unlink()
        capfd.readouterr()
        outcome = finetune_here(trained, domain, run_dir, "train.max_steps=5")
        message = capfd.readouterr()
        assert outcome.step == 5 and "nothing to do" in message.err and "\ndomain  " in message.out
        assert record_of(run_dir) == record and read_status(run_dir).state == "finished"
    assert f"elmo finetune {run_dir}/config.yaml" not in read_status(run_dir).next
    assert cli.main(["finetune", f"{run_dir}/config.yaml"]) == 0


def test_a_pretraining_and_its_fine_tunings_form_one_group_in_wandb(
    trained: Path, domain: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "source")
    finetune_here(tmp_path / "source", domain, tmp_path / "one", "train.max_steps=1", "wandb.mode=offline")
    finetune_here(tmp_path / "one", domain, tmp_path / "two", "train.max_steps=1")
    group = f"source-{json.loads((tmp_path / 'source/wandb-run.json').read_text())['id']}"
    assert record_of(tmp_path / "one")["group"] == record_of(tmp_path / "two")["group"] == group
    found = [record for piece in wandb_files.pieces(tmp_path / "one") for record in wandb_files.records(piece)]
    begun = [record["run"] for record in found if record["type"] == "run"]  # by the training and by its report
    assert {run["run_group"] for run in begun} == {group} and len({run["run_id"] for run in begun}) == 1
    summary = json.dumps([record["summary"] for record in found if record["type"] == "summary"])
    assert "both_before" in summary and "both_after" in summary


def test_other_words_lanes_or_sources_are_another_run(trained: Path, domain: Path, tmp_path: Path) -> None:
    finetune_here(trained, domain, tmp_path / "run", "train.max_steps=1")
    for pair in ("finetune.vocabulary=new", f"from={trained}/", "data.lanes=4"):
        with pytest.raises(ConfigError, match=r"holds a run that cannot be resumed with these settings"):
            finetune_here(trained, domain, tmp_path / "run", "train.max_steps=2", pair)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["from=absent"], "absent"),
        (["data=absent"], "absent"),
        (["model.lstm_dim=64"], "model.lstm_dim=64 cannot be: the model is that of from="),
        (["finetune.freeze=[layer3]"], "names no part of the model; it has encoder, layer1, layer2, softmax"),
        (["finetune.freeze=[encoder,layer1,layer2,softmax]"], "names every part"),
        (["finetune.freeze=[softmax]", "finetune.warmup_steps=3"], "which finetune.freeze forbids"),
        (["finetune.vocabulary=more"], "must be auto, keep, extend or new"),
        (["mix=DATASET:0.01"], "finetune.mix_share=0.01 of data.lanes=8 is 0 lanes"),
        (["mix=DATASET:0.99"], "is 8 lanes, and must be one at least and not all"),
        (["mix=DATASET:much"], "must be a dataset and a share of the lanes"),
        (["mix=absent:0.5"], "absent"),
        (["general=absent"], "absent"),
        (["softmax.num_samples=5000"], "softmax.num_samples=5000 is more than the vocabulary of 300 words"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_impossible_settings_are_refused_in_one_sentence(
    trained: Path, dataset: Path, domain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    pairs: list[str], message: str,
) -> None:  # fmt: skip
    pairs = [pair.replace("DATASET", str(dataset)) for pair in pairs]
    given = [f"from={trained}", f"data={domain}", f"run.dir={tmp_path / 'run'}", "data.lanes=8", "data.window=10"]
    assert cli.main(["finetune", *given, *pairs]) == 2
    out, err = capfd.readouterr()
    assert out == "" and message in err and err.startswith("elmo finetune: ") and err.count("\n") == 1, err
    assert CheckpointFolder(tmp_path / "run/checkpoints").records() == []


@pytest.mark.parametrize("lacking", ["from", "data"])
def test_a_missing_option_is_named(
    trained: Path, domain: Path, lacking: str, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    given = {"from": trained, "data": domain}
    assert cli.main(["finetune", *(f"{name}={path}" for name, path in given.items() if name != lacking)]) == 2
    assert f"{lacking}= is missing" in capfd.readouterr().err


def test_only_dropout_may_change_and_the_softmax_is_sampled_as_in_the_source(
    trained: Path, domain: Path, tmp_path: Path
) -> None:
    plan = plan_of(trained, domain, tmp_path / "run", "model.dropout=0.4", "model.lstm_dim=32")
    assert plan.config.model.dropout == 0.4 and plan.config.softmax.num_samples == 64
    assert math.isclose(plan.config.model.lstm_dim, 32)
