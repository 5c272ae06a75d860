"""Check the documents: links resolve, keys of commands exist, and quoted messages are in the code."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pipeline.cli import COMMANDS, VARIANTS
from pipeline.config.finetune import in_full
from pipeline.config.help import keys
from pipeline.config.load import is_config, load
from pipeline.config.schema import PretrainConfig
from pipeline.config.tasks import TASKS
from tests import pages
from tests.pages import ROOT

REFERENCE = ROOT / "docs" / "reference" / "configuration.py"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """Return the page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages.DOCUMENTS, ids=name)
def test_every_link_resolves(page: Path) -> None:
    lost = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and (not anchor or anchor in anchors(target))
        lost += [] if is_there and target.is_relative_to(ROOT) else [link]
    assert not lost


def test_every_document_that_a_file_names_exists() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    lost = []
    for file in tracked:
        if (ROOT / file).suffix in (".py", ".yaml", ".sh", ".sbatch", ".toml", ".md") and not file.startswith("lab/"):
            named = re.findall(r"\b(?:docs|lab)/[\w/.-]+\.(?:md|svg|png)", (ROOT / file).read_text(encoding="utf-8"))
            lost += [f"{file}: {path}" for path in named if not (ROOT / path).exists()]
    assert not lost


def settings(words: list[str]) -> tuple[type[Any], list[str]] | None:
    """Return the schema of a command line and the values it sets; None where it sets nothing."""
    arguments = [word for word in words if not word.startswith("-")]
    if words[0] in ("slurm/prep.sh", "slurm/submit.sh"):
        schema = COMMANDS["prep"].schema if words[0].endswith("prep.sh") else PretrainConfig
        return schema, [word for word in arguments[1:] if word != "..."]
    if "slurm/embed.sbatch" in words:
        return COMMANDS["embed"].schema, arguments[arguments.index("slurm/embed.sbatch") + 1 :]
    if "elmo" not in arguments or words[0] == "git":
        return None
    command, *rest = arguments[arguments.index("elmo") + 1 :]
    if not rest or rest[0] in ("verify", "info") or command == "demo":
        return None
    if command == "slurm":
        return COMMANDS["slurm"].schema, [word if "=" in word else f"copy={word}" for word in rest]
    if rest[0] in VARIANTS.get(command, {}):
        return VARIANTS[command][rest[0]], rest[1:]
    rest = in_full(rest) if command == "finetune" else rest
    full = [word if "=" in word or is_config(word) else f"runs={word}" for word in rest]
    return COMMANDS[command].schema, full


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the page's console blocks and blocks without a language."""
    for block in pages.blocks(page):
        if block.language == "console":
            yield from (command.words for command in pages.commands(block.body))
        elif block.language == "":
            for line in block.body.replace("\\\n", " ").splitlines():
                if re.match(r"(elmo [a-z]+ [^.]|slurm/|sbatch |id=)", line):
                    yield shlex.split(line)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=name)
def test_the_commands_of_a_page_set_only_options_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check keys, types and config files of the clone only: datasets and runs need not exist."""
    monkeypatch.chdir(ROOT)
    for words in command_lines(page):
        found = settings(words)
        if found is not None:
            schema, arguments = found
            known = [word for word in arguments if not word.startswith("runs/") and word != "mydata.yaml"]
            task = next((task for task, of_task in TASKS.items() if of_task is schema), "")
            load(schema, known, variant=task, variants=TASKS if task else ())


def test_the_pages_that_no_test_runs_have_commands() -> None:
    for page in ("one-billion-words.md", "slurm.md"):
        found = [settings(words) for words in command_lines(ROOT / "docs" / "guide" / page)]
        assert len([each for each in found if each is not None]) > 1


@pytest.mark.parametrize("page", pages.DOCUMENTS, ids=name)
def test_commands_and_scripts_in_the_text_exist(page: Path) -> None:
    if page.parent.name == "lab":
        return
    for span in CODE.findall(prose(page)):
        words = span.replace("'", "").split()
        if words[0] == "elmo" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
            assert words[1] in COMMANDS, span
            check_keys(words[1], words[2:])
        for script in re.findall(r"(?<!tests/)slurm/[a-z_]+\.(?:sh|sbatch|py)", span):
            assert (ROOT / script).exists(), script


def check_keys(command: str, words: list[str]) -> None:
    """Fail for a key that the command does not have."""
    pairs = [word for word in words if "=" in word]
    schema = VARIANTS.get(command, {}).get(words[0] if words else "", COMMANDS[command].schema)
    if is_dataclass(schema):
        full = in_full(pairs) if command == "finetune" else pairs
        known = {key.name for key in keys(schema)}
        assert {pair.partition("=")[0] for pair in full} <= known, pairs


def test_the_paths_in_the_map_of_the_code_exist() -> None:
    (tree,) = pages.code(ROOT / "docs" / "design.md", "")
    named = [line.split()[0] for line in tree.splitlines()]
    assert len(named) > 5 and not [path for path in named if not (ROOT / path).exists()]


def test_the_configuration_reference_is_current() -> None:
    made = subprocess.run([sys.executable, str(REFERENCE)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = REFERENCE.with_suffix(".md")
    how = f"python {name(REFERENCE)} > {name(page)}"
    assert made == page.read_text(encoding="utf-8"), f"an option changed; write the page again: {how}"


def printed_strings() -> str:
    """Return every string in the code and the scripts; of an f-string, the parts between its values."""
    found = [(ROOT / path).read_text() for path in ("install.sh", *map(name, ROOT.glob("slurm/*.s*")))]
    for folder in ("pipeline", "data_prep", "slurm"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found)


def test_the_messages_of_troubleshooting_are_printed() -> None:
    """Each part of a message between two values must be in one string of the code."""
    text = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text(encoding="utf-8")
    symptoms = [row.split(" | ")[0] for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)]
    messages = [span for symptom in symptoms for span in CODE.findall(symptom) if not span.startswith("elmo ")]
    assert len(messages) > 40
    code = printed_strings()
    lost = [m for m in messages if not all(part.strip("();: ") in code for part in m.split("…"))]
    assert not lost, "no string of the code holds these any more"
