"""What a probe prints, a table, and writes, JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.dataset.files import write_json
from data_prep.dataset.locations import local_path
from pipeline.config.probes import ProbeConfig
from pipeline.config.terminal import align


@dataclass(frozen=True)
class ProbeResult:
    """rows: of the table, the header first. notes: lines below it. record: what the JSON file holds."""

    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    record: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join([align(self.rows), *self.notes])

    def write(self, config: ProbeConfig) -> None:
        """Write the JSON file that the config asks for, if any; it appears once it is whole."""
        if config.output:
            write_json(local_path(config.output, "output"), self.record)


def describe_speed(count: int, per_second: float) -> str:
    """Return what a progress bar shows beside the number of sentences done."""
    return f"{per_second:,.0f} sentences/s"


def percent(share: float | None) -> str:
    """Return a number in percent as the table shows it, empty for None."""
    return "" if share is None else f"{share:.2f}"
