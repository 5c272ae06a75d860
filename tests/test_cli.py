"""The command line: help is instant and complete, and a mistake is reported in one sentence."""

import json
import os
import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import COMMANDS, main
from pipeline.config.packaged import config_names
from pipeline.config.schema import PretrainConfig
from pipeline.version import __version__

HEAVY = {"torch", "numpy", "omegaconf", "pytorch_lightning", "wandb", "webdataset", "yaml", "spacy", "matplotlib"}


def keys(schema: type[Any]) -> list[str]:
    """Return the dotted names of all options of a schema."""
    names: list[str] = []
    for field in fields(schema):
        section = None if field.default_factory is MISSING else field.default_factory()
        if is_dataclass(section):
            names += [f"{field.name}.{name}" for name in keys(type(section))]
        else:
            names.append(field.name)
    return names


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--version"], ["pretrain", "-h"], ["nonsense"], ["prep", "x.txt"]])
def test_help_and_errors_import_nothing_heavy(arguments: list[str]) -> None:
    """These imports are what would make `elmo -h` slow. A limit on time would depend on the machine."""
    heavy = HEAVY - {"omegaconf", "yaml"} if arguments == ["prep", "x.txt"] else HEAVY  # these commands read a config
    code = (
        f"import sys; from pipeline.cli import main; main({arguments!r})\n"
        f"print('imported:', *sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def environment_after(code: str) -> dict[str, str]:
    """Run code in a new interpreter; return the environment variables that it added or changed."""
    code = (
        f"import json, os; before = dict(os.environ); {code}; "
        "print(json.dumps({k: v for k, v in os.environ.items() if before.get(k) != v}))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_library_loads_no_torch_and_elmo_can_be_imported_from_it() -> None:
    code = "import sys, pipeline; assert 'torch' not in sys.modules; from pipeline import Elmo; print(Elmo.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "Elmo\n", done.stderr


def test_importing_the_library_writes_no_environment_variable() -> None:
    modules = "pipeline, pipeline.cli, pipeline.config.schema, pipeline.config.load, pipeline.train.run_dir.records"
    assert environment_after(f"import {modules}") == {}


def test_a_command_sets_the_variables_that_torch_reads_before_torch_is_loaded() -> None:
    code = (
        "import sys; from pipeline import cli; from pipeline.config import help as command; seen = []; "
        "cli.COMMANDS['demo'] = cli.COMMANDS['demo']._replace("
        "run=lambda _: seen.append('torch' in sys.modules) or 0); cli.main(['demo']); assert seen == [False]"
    )
    assert environment_after(code) == {"GOMP_SPINCOUNT": "1000", "THP_MEM_ALLOC_ENABLE": "1"}
    assert environment_after("import benchmarks") == {"GOMP_SPINCOUNT": "1000", "THP_MEM_ALLOC_ENABLE": "1"}


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"elmo-pipeline {__version__}\n"


def test_the_overview_lists_every_config_that_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    listed = capsys.readouterr().out.partition("Configs by name: ")[2]
    assert listed.replace(",", " ").split() == config_names()


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if is_dataclass(command.schema)])
def test_help_lists_every_key_with_default_type_and_meaning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "-h"]) == 0
    lines = {line.split("=")[0].strip(): line for line in capsys.readouterr().out.splitlines() if "=" in line}
    for key in keys(COMMANDS[name].schema):
        words = lines[key].split("=", 1)[1].split()
        assert len(words) >= 3, f"{key} has no default, type or meaning: {lines[key]}"


def test_the_help_of_a_key_is_its_default_type_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", "-h"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("data.lanes=")]
    meaning = PretrainConfig().data.__dataclass_fields__["lanes"].metadata["meaning"]
    assert line.split(maxsplit=2) == ["data.lanes=384", "int", meaning]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "pretrain"),
        (["pretrain", "data.lines=3"], "data.lines"),
        (["pretrain", "data.lanes=many"], "data.lanes"),
        (["pretrain", "data.lanes=0"], "data.lanes=0 must be at least 1"),
        (["pretrain", "data.lanes"], "neither a .yaml file nor key=value"),
        (["pretrain", "train.devices=3", "data.lanes=32"], "use a multiple of 3"),
        (["pretrain", "model.filters=[[60,2]]"], "model.filters"),
        (["pretrain", "absent.yaml"], "no such config file; `elmo -h` lists the configs that have names"),
        (["pretrain", "configs/smal.yaml"], "no such config file; did you mean the config small?"),
        (["task", "ner", "tasks/nre.yml"], "no such config file; did you mean the config tasks/ner?"),
        (
            ["pretrain", "smal"],
            "'smal' is neither a .yaml file nor key=value, as data.lanes=32; did you mean the config",
        ),
        (["pretrain"], "data.path= is missing"),
        (["pretrain", "data.path=absent"], "absent"),
        (["finetune"], "from= is missing"),
        (["finetune", "from=absent"], "data= is missing"),
        (["finetune", "from=absent", "data=absent"], "absent"),
        (["prep"], "input= is missing"),
        (["prep", "input=absent.txt", "output=out"], "absent.txt"),
        (["prep", "verify"], "takes one dataset folder"),
        (["prep", "info", "absent"], "absent"),
        (["evaluate", "data=absent"], "checkpoint= is missing"),
        (["evaluate", "checkpoint=absent", "data=text.txt"], "absent"),
        (["demo", "one", "two"], "one folder"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and message in err
    assert err.count("\n") == 1 and err.startswith("elmo"), err


def test_a_config_that_is_not_yaml_is_named_in_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text("data: {lanes: 32\n")
    assert main(["pretrain", str(file)]) == 2
    err = capsys.readouterr().err
    assert str(file) in err and err.count("\n") == 1


def test_an_error_in_our_code_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise ValueError("a bug")

    monkeypatch.setitem(COMMANDS, "demo", COMMANDS["demo"]._replace(run=broken))
    with pytest.raises(ValueError, match="a bug"):
        main(["demo"])


def test_prep_finds_the_home_folder_behind_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expand ~ after `input=`, because a shell expands ~ only at the start of a word."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_text("a sentence .\n" * 50)
    assert main(["prep", "input=~/text.txt", "output=~/dataset", "heldout=5", "workers=1"]) == 0
    assert (tmp_path / "dataset" / "index.json").exists()
