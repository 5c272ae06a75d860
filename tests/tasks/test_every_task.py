"""Every task with the real commands: trained on an excerpt, loaded again, and used to label the same file."""

from pathlib import Path

import pytest

from pipeline import cli
from pipeline.config.tasks import TASKS
from pipeline.tasks.task import Task
from tests.tasks.excerpts import CONLL2012, CRISIS, TREES, TSV, WIKIGOLD, squad
from tests.tasks.training import make_files, with_elmo

SMALL = {
    "pos": (WIKIGOLD, ["network.hidden=[4]"]),
    "ner": (WIKIGOLD, ["network.hidden=[4]"]),
    "srl": (CONLL2012, ["network.hidden=4", "network.num_layers=2", "network.predicate_dim=3"]),
    "coref": (CONLL2012, ["network.hidden=4", "network.scorer_hidden=[4]", "network.feature_dim=2"]),
    "squad": (squad(CRISIS), ["network.hidden=4", "words.characters.min_count=1"]),
    "snli": (TSV, ["network.hidden=4"]),
    "sst5": (TREES, ["network.hidden=4", "network.output_hidden=[8,4]"]),
}
MACHINE = ["training.max_epochs=2", "training.accelerator=cpu", "training.threads=1", "wandb.mode=disabled"]
GLOVE = "the 0.5 -1 0.25\noil 1 0.5 0.125\nis 0.25 0.25 1\nwants 1 0 1\ntwo -1 0 1\ngood 0 1 0\n"


def test_each_task_is_tested() -> None:
    assert SMALL.keys() == TASKS.keys()


@pytest.mark.parametrize("elmo", [True, False], ids=["elmo", "baseline"])
@pytest.mark.parametrize("name", SMALL)
def test_a_task_is_trained_and_loaded_again_and_labels_its_file(name: str, elmo: bool, tmp_path: Path) -> None:
    text, sizes = SMALL[name]
    data, vectors, output = tmp_path / "data", tmp_path / "glove.txt", tmp_path / "labelled"
    data.write_text(text)
    vectors.write_text(GLOVE)
    make_files(tmp_path)
    words = [f"vectors={vectors}", "words.case=lower", f"elmo.cache_dir={tmp_path / 'layers'}"]
    options = [*sizes, *MACHINE, *words, *(with_elmo(tmp_path) if elmo else [])]
    assert cli.main(["task", name, f"train={data}", f"dev={data}", f"run.dir={tmp_path / 'run'}", *options]) == 0
    model = tmp_path / "run" / "model"
    assert cli.main(["predict", f"model={model}", f"input={data}", f"output={output}"]) == 0
    task = Task.from_pretrained(model)
    examples, again = (task.kind.read(str(path), task.config, False) for path in (data, output))
    assert [example.texts() for example in examples] == [example.texts() for example in again]
    assert task.predict(examples) == task.predict(examples, batch_size=1)


@pytest.mark.parametrize("name", ["coref", "squad", "sst5"])
def test_fixed_word_vectors_must_be_given(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.write_text(SMALL[name][0])
    assert cli.main(["task", name, f"train={data}", f"dev={data}", f"run.dir={tmp_path / 'run'}", *MACHINE]) == 2
    assert "words.vectors=fixed" in capsys.readouterr().err and not (tmp_path / "run").exists()
