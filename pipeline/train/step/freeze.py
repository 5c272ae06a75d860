"""Parts of the model that do not learn: for a whole run, or while a new softmax is warmed up."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config.schema import require
from pipeline.model.bilm import BiLM

SOFTMAX = "softmax"


def part_of(name: str) -> str:
    """encoder, layer1, layer2, ... or softmax: what a parameter belongs to."""
    parts = name.split(".")
    return f"layer{int(parts[1]) + 1}" if parts[0] == "layers" else parts[0]


def parts_of(num_layers: int) -> list[str]:
    return ["encoder", *(f"layer{k + 1}" for k in range(num_layers)), SOFTMAX]


@dataclass(frozen=True)
class Freeze:
    """parts: never learn. warmup_steps: the first steps, in which the softmax learns alone."""

    parts: frozenset[str] = frozenset()
    warmup_steps: int = 0

    @classmethod
    def checked(cls, parts: Iterable[str], warmup_steps: int, num_layers: int) -> "Freeze":
        """Raises ConfigError for a part that is not there, and where nothing would learn."""
        known, frozen = parts_of(num_layers), frozenset(parts)
        unknown = sorted(frozen - set(known))
        require(not unknown, f"finetune.freeze={unknown} names no part of the model; it has {', '.join(known)}")
        require(frozen != set(known), "finetune.freeze names every part of the model; leave one that learns")
        require(
            not (warmup_steps and SOFTMAX in frozen),
            f"finetune.warmup_steps={warmup_steps} trains the softmax, which finetune.freeze forbids; drop one of them",
        )
        return cls(frozen, warmup_steps)

    def prepare(self, bilm: BiLM) -> None:
        """No gradient is computed for what never learns; called before DDP counts what has one.

        Not so where DDP would be left with nothing: then gradients are made and dropped. The softmax's rows are
        always made, as they carry the step's loss from rank to rank.
        """
        of_ddp = {name: p for name, p in bilm.named_parameters() if part_of(name) != SOFTMAX}
        if any(part_of(name) not in self.parts for name in of_ddp):
            for name, parameter in of_ddp.items():
                parameter.requires_grad_(part_of(name) not in self.parts)

    def drop_gradients(self, bilm: BiLM, step: int) -> None:
        """What does not learn in this step has no gradient: neither clipping nor the optimizer sees it."""
        warming = step < self.warmup_steps
        if not warming and not self.parts:
            return
        for name, parameter in bilm.named_parameters():
            part = part_of(name)
            if part in self.parts or (warming and part != SOFTMAX):
                parameter.grad = None
