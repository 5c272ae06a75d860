"""The translation encoder's layers are probed in the biLM's place."""

import json
from pathlib import Path

from pipeline import cli
from tests.tasks.cove import parallel
from tests.tasks.probes import data


def test_cove_is_probed_as_a_bilm_is(tmp_path: Path) -> None:
    parallel.make_files(tmp_path)
    assert parallel.train(tmp_path, "run", "training.max_epochs=1") == 0
    cove, output = f"checkpoint={tmp_path / 'run' / 'model'}", tmp_path / "result.json"
    assert cli.main(["probe", "wsd", *data.write_senses(tmp_path), cove, f"output={output}"]) == 0
    layers = [*json.loads(output.read_text())["scores"]][:-1]
    assert layers[0].startswith("layer 0 (") and "tokens" not in layers[0] and layers[1:] == ["layer 1", "layer 2"]
    train = data.write_tagged(tmp_path / "train.tsv", 8, 1)
    given = [f"train={train}", f"dev={train}", "max_epochs=1", f"cache_dir={tmp_path / 'layers'}", cove]
    assert cli.main(["probe", "pos", *given, f"output={output}"]) == 0
    assert [layer["layer"] for layer in json.loads(output.read_text())["layers"]] == layers
