"""Arguments and YAML files as users mistype them, and as an attacker would write them."""

import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any, get_type_hints

import yaml
from omegaconf import OmegaConf

from pipeline.cli import COMMANDS
from pipeline.config.finetune import in_full
from pipeline.config.load import load
from pipeline.config.probes import PROBES
from pipeline.config.schema import to_dict
from pipeline.config.tasks import TASKS
from tests.budget.laws import write_law
from tests.fuzz.cage import Fault, call, elmo, note
from tests.fuzz.mutators import TEXTS, VALUES, bytes_damaged
from tests.fuzz.world import TRAINING, World
from tests.tasks.cove import parallel

NOT_YAML = [
    '"', "{", "]", "@x", "*a", "!x 1", "[" * 1000, "\udcff", "1" * 5000, "a: b: c", "\x00", "${", "%TAG", "? ", "&a",
]  # fmt: skip
# Not tested: many processes, runs without end, the network, and files outside the case's folder.
_PROCESSES = ("processes", "devices", "nodes", "workers", "hub", "watch", "threads", "input", "mode", "seconds")
_WRITTEN = ("output", "sentences", "dir", "index", "cache_dir", "stage_dir")
DOCUMENTS = [
    "[1, 2]", "text", "1", "null", "", "a: 1", "--- 1\n--- 2\n", "run: 3", "run: [1]", "run: {dir: {a: b}}", "<<: 1",
    "run: !!python/object/apply:os.system ['touch ../victim']", "x: !!python/name:os.x", "run: {dir: *b}", "\0",
    "run: &r {seed: 1}\nmodel: *r\n", "a" * 200_000, "1" * 5000, "run: {seed: " + "1" * 5000 + "}", "{" * 3000,
    "a: " * 1000, "run: {name: \0}", "? [1]\n: 2\n", "data: {path: 2001-01-01}", "data: {lanes: 0x10}", "run: {1: 2}",
    "data: {lanes: 1_6}", "run: {name: on}", "run: {seed: 1}\nrun: {seed: 2}\n", "\ufeffrun: {seed: 1}\n",
    "run:\n\tseed: 1\n", "".join(" " * n + "a:\n" for n in range(900)),
    "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'a'}]" for n in range(12)),
]  # fmt: skip


def _base(world: World, command: str, folder: Path) -> list[str]:
    """Return arguments with which the command works."""
    corpus = folder / "corpus.txt"  # without index=, neighbors keeps its index beside the corpus
    shutil.copyfile(world.heldout, corpus)
    checkpoint, text = f"checkpoint={world.model}", f"input={world.heldout}"
    law = write_law(folder / "law.json")
    training = [*TRAINING, f"data.path={world.dataset}", f"run.dir={folder / 'run'}", "train.max_steps=2"]
    return {
        "prep": [text, f"output={folder / 'data'}", "workers=1"],
        "pretrain": training,
        "plan": [*TRAINING, f"data.path={world.dataset}", f"law={law}", "hours=0.01", "configs=[nano]", "seconds=0.01"],
        "preflight": training,
        "finetune": [f"from={world.model}", *(pair for pair in training if not pair.startswith("model."))],
        "evaluate": [checkpoint, f"data={world.dataset}", "accelerator=cpu", f"output={folder / 'result.json'}"],
        "export": [checkpoint, f"output={folder / 'model'}"],
        "import": [f"options={world.weights / 'options.json'}", f"weights={world.weights / 'weights.hdf5'}",
                   f"output={folder / 'model'}"],
        "embed": [checkpoint, text, f"output={folder / 'out.h5'}", "accelerator=cpu"],
        "score": [checkpoint, text, "accelerator=cpu"],
        "neighbors": [checkpoint, f"corpus={corpus}", f"index={folder / 'index'}", "word=w1", "sentence=w1 w2"],
        "task": ["ner", *world.tagging(), f"run.dir={folder / 'task'}", f"elmo.cache_dir={folder / 'layers'}"],
        "predict": [f"model={world.tagger}", f"input={world.columns}", f"output={folder / 'out'}", "accelerator=cpu"],
        "probe": ["pos", f"train={world.columns}", f"dev={world.columns}", checkpoint, "max_epochs=1",
                  f"cache_dir={folder / 'layers'}", "accelerator=cpu"],
        "cove": ["train", *parallel.arguments(parallel.make_files(folder), "cove"), "training.max_epochs=1"],
        "study": ["tasks=ner", f"dir={folder / 'study'}", "parts=99", "part=98"],
        "report": [str(world.run), f"output={folder / 'report'}"],
        "status": [str(world.run)],
        "plot": [str(world.run), f"output={folder / 'plot.html'}"],
        "compare": [str(world.run), str(world.run)],
        "sync": [str(world.run), "dry_run=true"],
        "dashboard": [f"output={folder / 'view.json'}"],
        "slurm": [f"copy={folder / 'scripts'}"],
        "demo": [],
    }[command]  # fmt: skip


SCHEMAS = {command: COMMANDS[command].schema for command in COMMANDS} | {"task": TASKS["ner"], "probe": PROBES["pos"]}
FIRST = [(command, value) for command in COMMANDS for value in NOT_YAML if command != "demo"]
UNUSABLE = ["FILE", "/dev/null", "/proc/x", "/sys/x", "a\0b", "x" * 5000, "\udcff/" * 3, "LOOP"]
WRITERS = ["pretrain", "preflight", "finetune", "task", "demo", "prep", "export"]
PLACES = [(command, place) for command in WRITERS for place in UNUSABLE]


def arguments(world: World, chance: Random, folder: Path, case: int) -> None:
    """Run a working command with one odd argument more, or with one argument fewer."""
    command = chance.choice([name for name in COMMANDS if name != "demo"])
    _run(command, _mistyped(_base(world, command, folder), SCHEMAS[command], chance))


def not_yaml(world: World, chance: Random, folder: Path, case: int) -> None:
    """Run each command with each value that is not YAML, at one of its keys."""
    command, value = FIRST[case]
    base = _base(world, command, folder)
    key = chance.choice([pair.partition("=")[0] for pair in base if "=" in pair] or ["output"])
    _run(command, [*base, f"{key}={value}"])


def places(world: World, chance: Random, folder: Path, case: int) -> None:
    """Run each command that writes a folder with a place where no folder can be."""
    _run_at(world, folder, *PLACES[case])


def _run_at(world: World, folder: Path, command: str, place: str) -> None:
    (folder / "FILE").write_text("text")
    (folder / "LOOP").symlink_to("LOOP")
    base = [pair for pair in _base(world, command, folder) if not pair.startswith(("run.dir=", "output="))]
    note(f"{command} at {place!r}")
    key = "" if command == "demo" else "output=" if command in ("prep", "export") else "run.dir="
    elmo(command, *base, f"{key}{place}", ends_with_1=command == "preflight")


def _mistyped(base: list[str], schema: type[Any], chance: Random) -> list[str]:
    keys = [key for key in _keys(schema, "") if key.rpartition(".")[2] not in _PROCESSES]
    key = chance.choice(keys)
    texts = [text for text in TEXTS if not text.startswith(("/", ".", "file", "${oc"))]
    texts = texts if key.rpartition(".")[2] in _WRITTEN else [text for text in TEXTS if not text.startswith("${oc")]
    value = chance.choice([*texts, *NOT_YAML, *map(str, VALUES[:14])])
    action = chance.choice(["set"] * 8 + ["drop", "no equals", "unknown", "below", "above", "twice", "spaces"])
    if action == "drop":
        return [pair for pair in base if pair != chance.choice(base)]
    pair = {
        "no equals": key, "unknown": f"{key}x={value}", "below": f"{key}.x={value}",
        "above": f"{key.partition('.')[0]}={value}", "twice": f"{key}=={value}", "spaces": f" {key} = {value} ",
    }.get(action, f"{key}={value}")  # fmt: skip
    return [*base, pair]


def _keys(schema: Any, prefix: str) -> list[str]:
    hints = get_type_hints(schema)
    return [
        key for field in fields(schema)
        for key in (_keys(hints[field.name], f"{prefix}{field.name}.") if is_dataclass(hints[field.name])
                    else [f"{prefix}{field.name}"])
    ]  # fmt: skip


def _run(command: str, arguments: list[str]) -> None:
    note(f"{command} {arguments[-1:]!r}")
    elmo(command, *arguments, ends_with_1=command == "preflight")
    if command in ("task", "probe", "cove"):
        given = arguments[1:]
    else:
        given = in_full(arguments) if command == "finetune" else [a if "=" in a else f"runs={a}" for a in arguments]
    _reads_back(SCHEMAS[command], given)


def _reads_back(schema: type[Any], arguments: list[str]) -> None:
    """Check that an accepted config can be written to a YAML file, as a run does, and reads back the same."""
    config = call(load, schema, arguments)
    Path("again.yaml").write_text(yaml.safe_dump(to_dict(config)), "utf-8")
    if repr(again := call(load, schema, ["again.yaml"])) != repr(config):
        raise Fault(f"wrong result in silence: {config} reads back as {again}"[:600])


def documents(world: World, chance: Random, folder: Path, case: int) -> None:
    """Run with a configuration file that is another kind of document."""
    _configure(folder, DOCUMENTS[case].encode("utf-8", "surrogatepass"), f"document {case}")


def yaml_file(world: World, chance: Random, folder: Path, case: int) -> None:
    """Run with a configuration file that is damaged, or in which one value is replaced."""
    training = [*TRAINING, f"data.path={world.dataset}", f"run.dir={folder / 'run'}"]
    data = OmegaConf.to_yaml(OmegaConf.from_dotlist(training)).encode()
    if chance.random() < 0.5:
        lines = data.split(b"\n")
        at, value = chance.randrange(len(lines)), chance.choice([*NOT_YAML, *map(str, VALUES)])
        value = "x" if "oc.env" in value else value
        lines[at] = lines[at].partition(b":")[0] + b": " + value.encode("utf-8", "surrogateescape")
        _configure(folder, b"\n".join(lines), f"line {at} = {lines[at][:80]!r}")
    else:
        _configure(folder, *bytes_damaged(data, chance))


def _configure(folder: Path, data: bytes, message: str) -> None:
    path = folder / "config.yaml"
    path.write_bytes(data)
    note(message)
    safe = ["train.devices=1", "train.nodes=1", "data.workers=0", f"run.dir={folder / 'run'}"]
    elmo("preflight", str(path), *safe, ends_with_1=True)
    _reads_back(COMMANDS["preflight"].schema, [str(path), *safe])
