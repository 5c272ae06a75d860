"""Print docs/reference/configuration.md, generated from the dataclasses that define the options.

python docs/reference/configuration.py > docs/reference/configuration.md
"""

from dataclasses import is_dataclass
from itertools import groupby

from pipeline.cli import COMMANDS
from pipeline.config.help import Command, Key, keys
from pipeline.config.probes import PROBES
from pipeline.config.schema import PretrainConfig

HEAD = """# Configuration reference

<!-- Generated: python docs/reference/configuration.py > docs/reference/configuration.md -->

Every command has the form `elmo COMMAND [CONFIG.yaml ...] [key=value ...]`. YAML files and `key=value` pairs are
merged over the defaults; a later one wins. `elmo COMMAND -h` prints the same list. Arguments, exit codes, signals and
environment variables: [command line](command-line.md).
"""
# Commands whose options are those of another one, with what they add or leave out.
SAME = {
    "plan": "The keys of [`elmo pretrain`](#elmo-pretrain), for all runs that are compared, and the keys below.",
    "finetune": "All keys of [`elmo pretrain`](#elmo-pretrain), and the keys below. `from=`, `data=`, `mix=DIR:SHARE` "
    "and `general=` are short for `finetune.source=`, `data.path=`, `finetune.mix=` with `finetune.mix_share=`, and "
    "`finetune.general=`.",
    "preflight": "The keys of [`elmo pretrain`](#elmo-pretrain) or [`elmo finetune`](#elmo-finetune).",
    "cove": "The keys of `elmo cove train` are below. `elmo cove import` takes `weights=`, `vectors=`, `output=`, "
    "`max_vectors=`, `case=` and `overwrite=`; `elmo cove import -h` lists them.",
    "demo": "One folder, and `key=value` pairs for [`elmo pretrain`](#elmo-pretrain).",
}


def page() -> str:
    """Return the whole page."""
    links = [f"[{name}](#elmo-{name})" for name in COMMANDS]
    sections = [_section(name, command) for name, command in COMMANDS.items()]
    return "\n".join([HEAD, " · ".join(links), *sections])


def _section(name: str, command: Command) -> str:
    meaning = _escaped(command.meaning)
    lines = ["", f"## elmo {name}", "", f"{meaning[:1].upper()}{meaning[1:]}.", "", "```", command.example, "```"]
    if name in SAME:
        lines += ["", SAME[name]]
    if name == "probe":
        for probe, schema in PROBES.items():
            lines += ["", f"`elmo probe {probe}`:", *_tables(keys(schema))]
    elif is_dataclass(command.schema) and name != "preflight":
        known = {key.name for key in keys(PretrainConfig)} if name in ("finetune", "plan") else set()
        lines += _tables([key for key in keys(command.schema) if key.name not in known])
    return "\n".join(lines)


def _tables(shown: list[Key]) -> list[str]:
    """Return a table for each section of the keys."""
    lines = []
    for _, of_group in groupby(shown, lambda key: key.name.rpartition(".")[0]):
        lines += ["", "| key | type | default | meaning |", "|---|---|---|---|", *map(_row, of_group)]
    return lines


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else ""
    kind = key.type.replace("|", " or ")
    return f"| `{key.name}` | {_escaped(kind)} | {default} | {_escaped(key.meaning)} |"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


if __name__ == "__main__":
    print(page())
