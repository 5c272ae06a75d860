"""The benchmark of data preparation runs on a small corpus."""

import json
import subprocess
import sys
from pathlib import Path

from data_prep.dataset.open import open_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_prep_is_measured_verified_and_compared_on_a_synthetic_corpus(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.prep", "--sentences=2000", "--files=2", "--workers=2"]
    command += ["--baseline-sentences=200", f"--folder={tmp_path}", f"--output={output}"]
    command += [f"--keep={tmp_path}/kept"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(output.read_text())
    assert result["sentences"] == 2000 and result["bytes_ratio"] > 10
    assert result["peak_memory_mib"] > 20
    assert result["peak_disk_bytes"] > 4 * result["words"]
    assert "x the dataset" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "result.json"]
    assert open_dataset(tmp_path / "kept").splits["train"].num_tokens > 2000
