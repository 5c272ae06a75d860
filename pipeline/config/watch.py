"""Every option of the commands that watch runs, with its default and meaning; run folders are given without a key."""

from dataclasses import dataclass

from pipeline.config.schema import option, require


@dataclass
class StatusConfig:
    runs: list[str] = option([], "run folders: elmo status runs/first")
    watch: bool = option(False, "repeat until the run has ended; also: --watch")
    every_seconds: float = option(5.0, "watch=true: seconds between two reports")
    json: bool = option(False, "print one JSON object a run instead; also: --json")

    def __post_init__(self) -> None:
        _require_runs("status", self.runs, 1)
        require(self.every_seconds > 0, f"every_seconds={self.every_seconds} must be positive")


@dataclass
class PlotConfig:
    runs: list[str] = option([], "run folders, in one plot: elmo plot runs/first runs/second output=plot.html")
    output: str = option("", "file to write: .png, or .html (one page that loads nothing else) (extra `plot`)")

    def __post_init__(self) -> None:
        _require_runs("plot", self.runs, 1)
        require(
            self.output.endswith((".png", ".html")),
            f"output={self.output!r} must name a file that ends with .png or .html",
        )


@dataclass
class ReportConfig:
    runs: list[str] = option([], "folders with results of studies, probes, neighbors, fine-tunings: elmo report runs")
    output: str = option("", "folder to write: report.html and PNG files (extra `plot`) [default: report in the first]")

    def __post_init__(self) -> None:
        require(bool(self.runs), "elmo report takes one or more folders: elmo report DIR")


@dataclass
class CompareConfig:
    runs: list[str] = option([], "run folders, one a column: elmo compare runs/first runs/second")
    json: bool = option(False, "print JSON instead of tables")

    def __post_init__(self) -> None:
        _require_runs("compare", self.runs, 2)


@dataclass
class SyncConfig:
    runs: list[str] = option([], "run folders that were tracked offline: elmo sync runs/first")
    dry_run: bool = option(False, "print what would be uploaded, and upload nothing")

    def __post_init__(self) -> None:
        _require_runs("sync", self.runs, 1)


@dataclass
class DashboardConfig:
    project: str = option("", "wandb project of the view [default: WANDB_PROJECT, else elmo]")
    entity: str = option("", "user or team of the project [default: WANDB_ENTITY, else your own]")
    name: str = option("ELMo pretraining", "name of the view; every call makes a new one")
    group_runs: bool = option(False, "group pretrainings with their fine-tunings in the list of runs")
    output: str = option("", "write the view as JSON to this file instead, and send nothing")


def _require_runs(command: str, runs: list[str], number: int) -> None:
    several = "a run folder" if number == 1 else f"{number} run folders"
    require(len(runs) >= number, f"elmo {command} takes {several} or more: elmo {command}{' RUN_DIR' * number}")
