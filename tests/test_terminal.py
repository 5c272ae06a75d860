"""Foreign text is printed without characters that control the terminal."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.dataset.index import information_sha256
from data_prep.prepare import prepare
from pipeline.cli import main
from pipeline.config.terminal import printable
from pipeline.train.outcome import Outcome
from tests import corpora, processes

CONTROLS = "\x1b\x07\x9b\r\x08\u202e"
EVIL = "\x1b]0;title\x07\x9b31m\r\x08\u202e"
SHOWN = r"\x1b]0;title\x07\x9b31m\r\x08\u202e"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    corpora.write_text(folder / "text.txt", corpora.zipf_sentences(20, seed=1, types=30))
    prepare([str(folder / "text.txt")], folder / "data", heldout=2, workers=1)
    return folder / "data"


def elmo(*arguments: str) -> str:
    """Run a command; return what it printed, after checking that no character in it controls a terminal."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, cwd=processes.ROOT, env=processes.clean_environment(), capture_output=True)
    printed = (done.stdout + done.stderr).decode()
    assert "Traceback" not in printed
    assert not set(printed) & set(CONTROLS)
    return printed


def test_only_characters_that_control_a_terminal_are_escaped() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("\udcff") == r"\udcff"
    assert printable("Zoë 漢字 😀 می‌خواهم\n\tx") == "Zoë 漢字 😀 می‌خواهم\n\tx"


def test_status_prints_the_records_of_a_run_without_control_characters(tmp_path: Path) -> None:
    run_dir = tmp_path / f"run{EVIL}"
    run_dir.mkdir()
    (run_dir / "start.json").write_text(json.dumps({"host": f"n1{EVIL}", "data": f"d{EVIL}", "unix_time": 1.0}))
    (run_dir / "end.json").write_text(json.dumps({"how": "stopped", "text": f"x{EVIL}", "why": f"y{EVIL}"}))
    (run_dir / "restarts.jsonl").write_text(json.dumps({"reason": f"z{EVIL}"}) + "\n" + json.dumps({EVIL: 1, "job": 2}))
    link = tmp_path / "run"
    link.symlink_to(run_dir)
    printed = elmo("status", str(link))
    assert f"stopped by y{SHOWN}, x{SHOWN}" in printed and f"z{SHOWN}" in printed


@pytest.mark.parametrize("arguments", [["prep", "info", "DATASET"], ["--help"], ["prep", "--help"]])
def test_a_reader_that_leaves_early_ends_a_command_without_a_traceback(arguments: list[str], dataset: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", *(str(dataset) if a == "DATASET" else a for a in arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_help_leaves_sigpipe_ignored() -> None:
    assert main(["--help"]) == 0
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN


@pytest.mark.parametrize(("stopped", "saved_step"), [(True, 4), (False, 3), (False, 4)])
def test_a_run_prints_the_next_command_without_control_characters(
    stopped: bool, saved_step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(Path(f"run{EVIL}"), 4, saved_step, 8, True, stopped, Path(f"wandb{EVIL}"))
    outcome.print_next_steps("pretrain", [f"run.dir=run{EVIL}"], f"data{EVIL}")
    printed = "".join(capsys.readouterr())
    assert f"wandb{SHOWN}" in printed and printed.count(f"run{SHOWN}") == 2
    assert not set(printed) & set(CONTROLS)


def test_an_index_is_shown_and_refused_without_control_characters(dataset: Path, tmp_path: Path) -> None:
    index = json.loads((dataset / "index.json").read_text())
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("lexicon.tsv", *(path.name for path in dataset.glob("*.npy"))):
        (folder / name).write_bytes((dataset / name).read_bytes())
    index["made"]["options"][EVIL] = EVIL
    index["made"]["inputs"][0]["name"] = f"from{EVIL}"
    index["information_sha256"] = information_sha256(index["made"], index["summary"])
    (folder / "index.json").write_text(json.dumps(index))
    assert f"from{SHOWN}" in elmo("prep", "info", str(folder))
    index["summary"]["words"] = {f"key{EVIL}": "x"}
    index["information_sha256"] = information_sha256(index["made"], index["summary"])
    (folder / "index.json").write_text(json.dumps(index))
    assert f"key{SHOWN}" in elmo("prep", "info", str(folder))  # in a warning
    index["splits"]["train"] = {}
    (folder / "index.json").write_text(json.dumps(index))
    folder = folder.rename(tmp_path / f"data{EVIL}")
    printed = elmo("prep", "info", str(folder))
    assert printed.startswith("elmo prep: ") and f"data{SHOWN}: index.json is damaged" in printed
