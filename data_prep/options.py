"""Every option of a preparation, once: `elmo prep -h`, its arguments, the reference and a dataset's identity read this.

NumPy, which DataError's module needs, is imported for an error only: `elmo -h` should not wait for it.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

Shuffle: TypeAlias = Literal["sentences", "documents", "none"]
OnError: TypeAlias = Literal["fail", "skip"]
Step: TypeAlias = Literal["encode", "merge", "shard"]
STEPS: tuple[Step, ...] = get_args(Step)


def _option(default: Any, meaning: str, identifies: bool = False, at_least: int | None = None) -> Any:
    """A field with its help text and its lower bound. identifies: whether the dataset's bytes depend on the option."""
    metadata = {"meaning": meaning, "identifies": identifies, "at_least": at_least}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class PrepConfig:
    input: list[str] = _option([], "files, globs, folders: one tokenised sentence a line; - is standard input")
    output: str = _option("", "folder of the dataset, or a URL of s3 or gs to which it is uploaded")
    local_dir: str | None = _option(
        None,
        "with output=URL: folder where the dataset is written first, and stays [null: the cache, until it is uploaded]",
    )
    heldout: int | float | None = _option(
        None,
        "held-out sentences: a share below 1, or a number [null: 0.01; with heldout_input: none]",
        True,
        at_least=0,
    )
    heldout_input: list[str] = _option([], "separate held-out text, instead of a share or count")
    tokenize: bool = _option(False, "the text is raw: split it into sentences and words (extra `text`)", True)
    language: str = _option("en", "language code for the rules of the tokeniser", True)
    shuffle: Shuffle = _option("sentences", "what is shuffled; a document is kept whole", True)
    seed: int = _option(0, "seed of the shuffle and of the choice of held-out sentences", True, at_least=0)
    workers: int = _option(0, "processes, 0: one a core; the result does not depend on them", at_least=0)
    on_error: OnError = _option("fail", "at a bad line; skipped lines are counted and listed", True)
    max_sentence_words: int = _option(100_000, "words of a line; a longer line is an error", True, at_least=1)
    shard_tokens: int = _option(32 << 20, "tokens of a shard, of 4 bytes each", True, at_least=1)
    chunk_tokens: int = _option(
        1 << 18, "tokens of a chunk; a small corpus gets smaller ones, about a thousand", True, at_least=1
    )
    overwrite: bool = _option(False, "replace a dataset that was made from other input or with other options")
    step: Step | None = _option(None, "run one pass only, for job arrays, in this order [null: all]")
    task: int = _option(0, "with step=: number of this task, from 0")
    tasks: int = _option(1, "with step=: number of tasks that share the pass")

    def __post_init__(self) -> None:
        for name, choices in {"shuffle": get_args(Shuffle), "on_error": get_args(OnError), "step": STEPS}.items():
            value = getattr(self, name)
            is_known = value in choices or (name == "step" and value is None)
            _require(is_known, f"{name}={value} is unknown; use one of {', '.join(choices)}")
        for names in (self.input, self.heldout_input):
            _require(not isinstance(names, str), f"inputs={names!r} is one string; give a list of names")
        self._resolve_heldout()
        for option in fields(self):
            least, value = option.metadata["at_least"], getattr(self, option.name)
            _require(least is None or value >= least, f"{option.name}={value} is too small; use {least} or more")
        _require(self.seed < 1 << 63, f"seed={self.seed} has more than 63 bits; use a smaller one")
        most, words = 1 << 22, self.max_sentence_words
        _require(words <= most, f"max_sentence_words={words} is above {most}; break the lines into sentences")
        self._check_step()

    def _resolve_heldout(self) -> None:
        if self.heldout is None:
            self.heldout = 0.0 if self.heldout_input else 0.01
        if isinstance(self.heldout, float) and self.heldout >= 1 and self.heldout.is_integer():
            self.heldout = int(self.heldout)
        value = self.heldout
        _require(
            isinstance(value, int) or 0 <= value < 1,
            f"heldout={value} is no share of the sentences; use 0 <= heldout < 1, or a whole number of sentences",
        )
        _require(
            not (value and self.heldout_input),
            f"heldout={value} and held-out text of its own exclude each other; give one of them",
        )

    def _check_step(self) -> None:
        share = f"task={self.task} of tasks={self.tasks}"
        if self.step is None:
            is_whole = (self.task, self.tasks) == (0, 1)
            _require(is_whole, f"{share} is a share of one pass; give step= too, or neither of them")
            return
        _require(0 <= self.task < self.tasks, f"{share} does not exist; use 0 <= task < tasks")
        _require(
            not self.overwrite,
            "overwrite=true with step would remove the other tasks' work; remove the folder yourself",
        )
        _require(
            "-" not in (*self.input, *self.heldout_input),
            "step needs inputs that every task can read, not standard input; save it to a file first",
        )

    def identity(self) -> dict[str, Any]:
        """Return the options that the dataset's bytes depend on."""
        return {option.name: getattr(self, option.name) for option in fields(self) if option.metadata["identifies"]}


def _require(condition: bool, message: str) -> None:
    if not condition:
        from data_prep.dataset.files import DataError

        raise DataError(message)
