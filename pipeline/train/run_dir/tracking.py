"""Log the metrics of a run to wandb and to RUN_DIR/metrics.jsonl, which any tool can read. Rank 0 only."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Predicate
from typing_extensions import TypedDict

from data_prep.dataset.files import DataError, write_json
from data_prep.dataset.locations import is_url
from data_prep.dataset.typed_json import FileName, load_json
from pipeline.config.schema import ConfigError, WandbConfig
from pipeline.train.run_dir.records import read_lines

log = logging.getLogger(__name__)
STEP_METRIC = "trainer/global_step"
DEFAULT_PROJECT = "elmo"
_INIT_TIMEOUT_SECONDS = 60
_FINISH_SECONDS = 60.0  # to upload what is left; a job at its time limit has three minutes to end


class WandbRun(TypedDict):
    """The content of wandb-run.json."""

    id: FileName


class Tracker:
    """One wandb run for a training; RUN_DIR/wandb-run.json keeps its id, so that a resumed training appends to it."""

    def __init__(
        self, run_dir: Path, name: str, config: WandbConfig, facts: dict[str, Any], group: str | None = None
    ) -> None:
        """name: "" if the user gives none. group: used if the user gives none; None: the run's own."""
        self._metrics_path = run_dir / "metrics.jsonl"
        self._log_artifacts = config.log_artifacts
        self.run = None if config.mode == "disabled" else _start(run_dir, name, config, facts, group)

    def log(self, metrics: Mapping[str, float | int | None], step: int) -> None:
        """Record metrics of a step, without those that are None."""
        record = {STEP_METRIC: step} | {k: v for k, v in metrics.items() if v is not None}
        try:
            _append_line(self._metrics_path, json.dumps(record))
        except OSError as error:
            log.error("NO METRICS of step %s in %s (%s): training continues", f"{step:,}", self._metrics_path, error)
        self._to_wandb(lambda run: run.log(record))

    def histograms(self, values: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int) -> None:
        """Log histograms (counts and bin edges, by name) to wandb only."""
        if self.run is not None:
            import wandb

            shown = {name: wandb.Histogram(np_histogram=histogram) for name, histogram in values.items()}
            self._to_wandb(lambda run: run.log({STEP_METRIC: step} | shown))

    def summary(self, values: Mapping[str, float | int]) -> None:
        """Set values that represent the whole run in wandb's tables."""
        self._to_wandb(lambda run: run.summary.update(dict(values)))

    def alert(self, title: str, text: str, level: str = "INFO") -> None:
        """Send an alert that wandb shows and mails as the user configured; offline, `elmo sync` uploads it."""
        self._to_wandb(lambda run: run.alert(title=title, text=text, level=level))

    def reference(self, kind: str, name: str, path: str, facts: dict[str, Any], aliases: list[str]) -> None:
        """Log the location of a file or dataset as an artifact, without its bytes, if wandb.log_artifacts is true."""
        if self.run is None or not self._log_artifacts:
            return
        import wandb

        uri = path if is_url(path) else Path(os.path.expanduser(path)).resolve().as_uri()
        try:
            artifact = wandb.Artifact(f"{name}-{self.run.id}", type=kind, metadata=facts)
            artifact.add_reference(uri, checksum=False)
            self.run.log_artifact(artifact, aliases=aliases)
        except Exception as error:  # whatever wandb raises, training continues
            log.error("NO ARTIFACT of %s in wandb (%s): training continues", path, error)

    def finish(self, exit_code: int = 0) -> None:
        """Flush and end the wandb run; offline, wandb writes only about every 15 s."""
        self._to_wandb(lambda run: run.finish(exit_code=exit_code))

    def _to_wandb(self, call: Callable[[Any], object]) -> None:
        """Call with the wandb run, if there is one. wandb's own process may be killed: training goes on without it."""
        if self.run is None:
            return
        try:
            call(self.run)
        except Exception as error:  # it raises errors of many kinds
            log.error("NO WANDB from here on (%s: %s): training continues", type(error).__name__, error)
            self.run = None

    @property
    def offline_dir(self) -> Path | None:
        """Return the offline wandb folder of this start, for `elmo sync`; None if wandb is online or disabled."""
        if self.run is None or not self.run.offline:
            return None
        return Path(self.run.dir).parent


def _append_line(path: Path, line: str) -> None:
    """Append a line, after a line end if a kill or a full disk cut the last line short."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(f"{line}\n".encode())


def _start(run_dir: Path, name: str, config: WandbConfig, facts: dict[str, Any], group: str | None) -> Any:
    import wandb

    mode = _mode(config)
    arguments: dict[str, Any] = {
        "id": _run_id(run_dir),
        "resume": "allow",
        "dir": str(run_dir),
        "config": facts,
        "project": config.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        "entity": config.entity or os.environ.get("WANDB_ENTITY") or None,
        "name": name or os.environ.get("WANDB_NAME") or run_dir.name,
        "group": config.group or os.environ.get("WANDB_RUN_GROUP") or group or family(run_dir, name),
        "notes": config.notes or os.environ.get("WANDB_NOTES") or None,
        "tags": config.tags or None,  # None: WANDB_TAGS, if set
    }
    try:
        timeout = float(os.environ.get("WANDB_INIT_TIMEOUT") or _INIT_TIMEOUT_SECONDS)
        settings = wandb.Settings(init_timeout=timeout, finish_timeout=_FINISH_SECONDS, silent=True)
        run = wandb.init(mode=mode, settings=settings, **arguments)  # type: ignore[arg-type]
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        log.warning("wandb cannot be reached (%s): the run continues, tracked offline", str(error).split("\n")[0])
        wandb.teardown()  # else its service keeps the run's id: "run ID ... is in use"
        run = wandb.init(mode="offline", settings=settings, **arguments)
    except ValueError as error:  # pydantic refuses a setting
        reason = " ".join(str(error).split())
        raise ConfigError(f"wandb refuses a setting ({reason}); check wandb.* and the variables WANDB_*") from None
    run.define_metric(STEP_METRIC)
    run.define_metric("train/tokens", step_metric=STEP_METRIC)  # in every record: users can choose it as x axis
    run.define_metric("*", step_metric=STEP_METRIC)
    return run


def _mode(config: WandbConfig) -> str:
    """Return the mode. auto: WANDB_MODE if set, else online if a key is known, else offline."""
    if config.mode != "auto":
        return config.mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text())
    return "online" if has_key else "offline"


def _run_id(run_dir: Path) -> str:
    """Return the run's id in wandb, the same at each start: that of a sweep's trial, else a new one.

    If its file is damaged, it is the id in wandb's folder.
    """
    path = run_dir / "wandb-run.json"
    try:
        known: WandbRun = load_json(path, WandbRun, "the id is taken from the names in its wandb/ folder")
        return known["id"]
    except FileNotFoundError:
        of_sweep = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        run_id = of_sweep or secrets.token_hex(4)
    except DataError as error:
        log.warning("%s", error)
        pieces = sorted(run_dir.glob("wandb/*run-*-*"))  # [offline-]run-TIME-ID
        run_id = pieces[-1].name.rpartition("-")[2] if pieces else secrets.token_hex(4)
    write_json(path, WandbRun(id=run_id))
    return run_id


def family(run_dir: Path, name: str | None = None) -> str:
    """Return the wandb group that joins a pretraining, its restarts and its fine-tunings, whatever their names."""
    return f"{name or run_dir.name}-{_run_id(run_dir)}"


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """Return the metrics of a run by step; if a resumed run repeated a step, the later record counts.

    A value that is not finite or not possible is left out.
    """
    steps: dict[int, dict[str, float]] = {}
    for record in read_lines(run_dir / "metrics.jsonl", _LINE):
        step = record.pop(STEP_METRIC)
        steps.setdefault(step, {}).update({k: v for k, v in record.items() if _is_possible(k, v)})
    return steps


def _is_possible(name: str, value: float) -> bool:
    low, high = _BOUNDS.get(name, (-_LARGE, _LARGE))
    return low <= value <= high  # which no NaN is


def _has_step(record: dict[str, float]) -> bool:
    step = record.get(STEP_METRIC)
    return isinstance(step, int) and 0 <= step <= _MAX_COUNT


_LARGE, _MAX_COUNT = 1e300, 1 << 60
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("train/tokens", "val/tokens", "train/bad_steps"), (0, _MAX_COUNT)),
    "train/epoch": (0, 1e12),
    "speed/tokens_per_second": (1e-9, 1e15),
    "speed/pause_share": (0, 1),
    "speed/eta_hours": (0, 1e12),
}
_LINE = Annotated[dict[str, int | float], Predicate(_has_step)]
