"""Freeze parts of the model: for a whole run, or while a new softmax is warmed up."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config.schema import require
from pipeline.model.bilm import BiLM

SOFTMAX = "softmax"


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to: encoder, layer1, layer2, ... or softmax."""
    parts = name.split(".")
    return f"layer{int(parts[1]) + 1}" if parts[0] == "layers" else parts[0]


def parts_of(num_layers: int) -> list[str]:
    """Return the names of all parts of a model."""
    return ["encoder", *(f"layer{k + 1}" for k in range(num_layers)), SOFTMAX]


@dataclass(frozen=True)
class Freeze:
    """parts: frozen for the whole run. warmup_steps: first steps, in which only the softmax learns."""

    parts: frozenset[str] = frozenset()
    warmup_steps: int = 0

    @classmethod
    def checked(cls, parts: Iterable[str], warmup_steps: int, num_layers: int) -> "Freeze":
        """Return a Freeze. Raises ConfigError for an unknown part, and if nothing would learn."""
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
        """Turn off gradients of frozen parts; call it before DDP counts the parameters that have gradients.

        If every DDP parameter is frozen, gradients are still computed and then discarded, because DDP needs at least
        one. The softmax's rows always get gradients, because the step's loss is exchanged with them.
        """
        ddp_parameters = {name: p for name, p in bilm.named_parameters() if part_of(name) != SOFTMAX}
        if any(part_of(name) not in self.parts for name in ddp_parameters):
            for name, parameter in ddp_parameters.items():
                parameter.requires_grad_(part_of(name) not in self.parts)

    def drop_gradients(self, bilm: BiLM, step: int) -> None:
        """Remove the gradients of parts frozen in this step, so that clipping and the optimizer skip them."""
        warming = step < self.warmup_steps
        if not warming and not self.parts:
            return
        for name, parameter in bilm.named_parameters():
            part = part_of(name)
            if part in self.parts or (warming and part != SOFTMAX):
                parameter.grad = None
