"""Malformed arguments, configs and paths: each command ends with one sentence and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_prep.options import PrepConfig
from pipeline.cli import COMMANDS, main
from pipeline.config.commands import EmbedConfig, NeighborsConfig
from pipeline.config.load import from_dict, load, to_yaml
from pipeline.config.schema import PretrainConfig, to_dict

VALUE_OF = {
    "prep": "workers", "pretrain": "train.devices", "finetune": "data.lanes", "preflight": "train.max_steps",
    "evaluate": "evaluate.lanes", "export": "overwrite", "import": "overwrite", "embed": "gamma", "score": "threads",
    "neighbors": "k", "predict": "batch_size", "study": "processes", "status": "every_seconds", "compare": "json",
    "sync": "dry_run", "dashboard": "group_runs", "plan": "hours",
}  # fmt: skip
"""A key of each command whose value is not text."""

NO_VALUES = ["]", "{", '"', "@x", "*a", "!x 1", "? a", "[" * 1000, "9" * 5000, "${x", "${oc.env:HOME}", "???"]
ONE_WORDS = [
    "{", '"', "]", "@x", "*a", "!x 1", "'", "[" * 1000, "9" * 5000, "1e3", "no", "null", "a: b", "#", "\\", "???",
    "\\???", "${", "${data.lanes}", "${oc.env:HOME}", "\\${x}", "a ${ b }", " a ", "-", "007", "it's", "%s",
    '" Yes . "', "'a': 'b'", "\"a\" and \"b\"",
]  # fmt: skip
NO_CONFIGS = {
    "a list": b"- 1\n- 2\n", "a word": b"word\n", "a number": b"3\n", "a date": b"2024-01-01\n", "a tag": b"!x 1\n",
    "a set": b"!!set {a}\n", "no number": b"a: !!int x\n", "an open map": b"a: {b: 1\n", "an alias": b"a: *b\n",
    "a very deep map": b"{a: " * 3000 + b"1" + b"}" * 3000, "a deep map": b"{a: " * 150 + b"1" + b"}" * 150,
    "NUL": b"a: \0\n", "an escaped NUL": b'"\\0": 1\n', "5,000 digits": b"a: " + b"9" * 5000, "bytes": b"\xff\xfe\xfa",
    "latin-1": "a: é\n".encode("latin-1"), "a tab": b"a:\n\t- b\n", "a key twice": b"a: 1\na: 2\n",
    "a list as key": b"? [a]\n: 1\n", "half a pair of surrogates": b'a: "\\ud800"\n', "no section": b"data: 3\n",
    "a bomb": b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 110)),
}  # fmt: skip


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with code 2; return what it printed, a line of limited length."""
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    assert code == 2, f"{arguments}: code {code}\n{out}\n{err}"
    assert out == "" and err.startswith("elmo") and err.count("\n") == 1 and len(err) < 700, err
    return err


@pytest.mark.parametrize("command", VALUE_OF)
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    for value in NO_VALUES:
        assert VALUE_OF[command] in refused([command, f"{VALUE_OF[command]}={value}"], capfd), value


def test_every_command_with_such_a_key_is_tested() -> None:
    others = {"plot", "report", "slurm", "demo", "task", "cove", "probe"}  # no such key, or keys that a variant has
    assert COMMANDS.keys() - VALUE_OF == others


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "demo"])
def test_a_config_of_the_wrong_kind_is_refused(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content in NO_CONFIGS.items():
        file = tmp_path / "odd.yaml"
        file.write_bytes(content)
        assert refused([command, str(file)], capfd), name


def test_an_empty_config_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(PretrainConfig, [str(tmp_path / "empty.yaml")]) == PretrainConfig()


def test_a_section_that_is_not_a_mapping_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for value in ("3", "null", "[1]", "word", "???", "${model}", ""):
        assert "data" in refused(["pretrain", f"data={value}"], capfd)


@pytest.mark.parametrize("word", ONE_WORDS)
def test_text_is_used_exactly_as_written(word: str) -> None:
    config = load(NeighborsConfig, [f"word={word}", f"corpus={word}", "corpus=b.txt"])
    assert (config.word, config.corpus) == (word, [word, "b.txt"])


@pytest.mark.parametrize(("given", "word"), [('"a: b"', "a: b"), ("''", ""), ("\"''\"", "''"), ("'it''s'", "it's")])
def test_text_in_quotes_is_read_as_in_yaml(given: str, word: str) -> None:
    assert load(NeighborsConfig, [f"word={given}"]).word == word


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (["input=[a.txt,b 2.txt]"], ["a.txt", "b 2.txt"]),
        (['input=["a, b.txt", 007]'], ["a, b.txt", "007"]),
        (["input=[a]", "input=b"], ["a", "b"]),
        (["input=a", "input=[b]"], ["b"]),
        (["input=a", "input=[]"], []),
        (["input=[ab]*.txt"], ["[ab]*.txt"]),
        (["input=["], ["["]),
        (["input=[{a: 1}]"], ["[{a: 1}]"]),
    ],
    ids=str,
)
def test_files_are_given_as_a_list_or_one_by_one(given: list[str], files: list[str]) -> None:
    assert load(PrepConfig, given).input == files


@pytest.mark.parametrize("nothing", ["null", "~", ""])
def test_null_means_no_text_where_text_is_optional(nothing: str) -> None:
    assert load(PretrainConfig, ["wandb.group=a", f"wandb.group={nothing}"]).wandb.group is None


def test_other_values_are_read_as_yaml() -> None:
    config = load(PretrainConfig, ["model.filters=[[1, 32], [2, 8]]", "optimizer.clip_norm=null", "optimizer.lr=1e-3"])
    assert config.model.filters == [[1, 32], [2, 8]]
    assert config.optimizer.clip_norm is None and config.optimizer.lr == 0.001
    assert load(EmbedConfig, ["weights=[0, 1, 2.5]", "overwrite=true"]).weights == [0.0, 1.0, 2.5]
    assert load(PretrainConfig, ["data={lanes: 32, path: x}"]).data.path == "x"


@pytest.mark.parametrize("value", ["inf", "nan", ".inf", "-.INF", "1e999", '"nan"'])
def test_numbers_are_finite(value: str, capfd: pytest.CaptureFixture[str]) -> None:
    for command, key in (("pretrain", "train.epochs"), ("embed", "gamma"), ("status", "every_seconds")):
        assert key in refused([command, f"{key}={value}"], capfd)


def test_integers_that_are_too_large_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for key in ("data.lanes", "train.devices", "train.max_steps", "run.seed"):
        assert key in refused(["pretrain", "data.path=x", f"{key}={10**30}"], capfd)


SECRET = "a-secret-of-the-environment"


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "${run.dir}", "a${", "\\${oc.env:SECRET}", "${oc.decode:x}", "$", "???"]
)
def test_no_value_of_a_config_is_interpolated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check configs of models, which others wrote, and the user's own, which may be copies of those."""
    monkeypatch.setenv("SECRET", SECRET)
    settings: dict[str, Any] = to_dict(PretrainConfig())
    settings["run"]["name"], settings["wandb"]["tags"], settings["wandb"]["notes"] = text, [text], text
    config = from_dict(PretrainConfig, settings)
    assert to_dict(config) == settings
    assert load(PretrainConfig, [], settings) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config))  # as a run's folder holds it
    if text != "a${":  # OmegaConf refuses this value in a file
        assert load(PretrainConfig, [str(tmp_path / "config.yaml")]) == config


def test_a_number_is_never_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANES", "32")
    for value in ("${oc.env:LANES}", "${data.window}", "???", "many", None, [3], {"a": 1}, 10**30, float("nan")):
        with pytest.raises(ValueError, match=r"data\.lanes"):
            from_dict(PretrainConfig, {"data": {"lanes": value}})


ELMO = [sys.executable, "-m", "pipeline.cli"]


def test_arguments_that_are_not_utf_8_are_refused_by_every_command() -> None:
    for command in ("prep", "pretrain", "neighbors", "status", "demo"):
        for argument in (b"\xff", b"input=\xff", b"\xff.yaml"):
            done = subprocess.run([*ELMO, command, argument], capture_output=True, timeout=60)
            assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
            assert b"UTF-8" in done.stderr
    for command in COMMANDS:
        for argument in (os.fsdecode(b"\xff"), os.fsdecode(b"output=\xe9"), "a\0b", "output=a\0b"):
            assert main([command, argument]) == 2
