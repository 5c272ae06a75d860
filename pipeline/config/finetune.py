"""Every option of a fine-tuning: those of a pretraining, and its source. Short forms: from=, data=, general=, mix=."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.schema import ConfigError, PretrainConfig, option, require, require_bounds

_SHORT = {"from": "finetune.source", "data": "data.path", "general": "finetune.general"}


@dataclass
class FinetuneSection:
    source: str = option("", "from=: checkpoint, run folder, exported or imported model, or ORG/NAME on the hub")
    vocabulary: Literal["auto", "keep", "extend", "new"] = option(
        "auto",
        "words of the softmax: keep (those of the source), extend (and those of the domain), new (those of the "
        "domain alone) or auto (keep if the source has a softmax, else new)",
    )
    new_rows: Literal["encoder", "mean"] = option(
        "encoder", "first rows of new words: encoder (predicted from their spelling), or mean (the mean row)"
    )
    warmup_steps: int | None = option(
        None,
        "steps in which only the softmax learns [null: a tenth of all steps if the source has no softmax, else 0]",
        at_least=0,
    )
    freeze: list[str] = option([], "parts that do not learn: encoder, layer1, layer2, ..., softmax")
    mix: str = option("", "mix=DIR:SHARE: dataset of general text to mix in, against forgetting")
    mix_share: float = option(0.1, "share of the lanes that read finetune.mix")
    general: str = option(
        "", "general=: dataset whose held-out text shows what was forgotten [default: mix, else the source's]"
    )

    def __post_init__(self) -> None:
        require_bounds(self, "finetune.")
        share = self.mix_share
        require(0 < share < 1, f"finetune.mix_share={share} must be between 0 and 1, as in mix=DIR:0.1")


@dataclass
class FinetuneConfig(PretrainConfig):
    finetune: FinetuneSection = field(default_factory=FinetuneSection)


def in_full(arguments: list[str]) -> list[str]:
    """Return the arguments with from=, data=, general= and mix= replaced by the options that they abbreviate."""
    full = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in _SHORT:
            full.append(f"{_SHORT[key]}={value}")
        elif equals and key == "mix":
            full += _mix(value)
        else:
            full.append(argument)
    return full


def _mix(value: str) -> list[str]:
    path, _, share = value.rpartition(":")
    try:
        return [f"finetune.mix={path}", f"finetune.mix_share={float(share)}"] if path else [f"finetune.mix={share}"]
    except ValueError:
        raise ConfigError(f"mix={value} must be a dataset and a share of the lanes: mix=data/corpus:0.1") from None
