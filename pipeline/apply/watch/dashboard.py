"""`elmo dashboard`: save a view of a wandb project with wandb's workspace library.

The metrics are those of pipeline/train/callbacks.py; wandb adds the machine's metrics as system/... .
"""

import json
import os
from typing import Any, NamedTuple

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from pipeline.config.schema import ConfigError
from pipeline.config.watch import DashboardConfig
from pipeline.train.run_dir.tracking import DEFAULT_PROJECT, STEP_METRIC

TOKENS = "train/tokens"


class Panel(NamedTuple):
    """A line plot of metrics, or of all metrics that match a regular expression."""

    title: str
    metrics: tuple[str, ...] = ()
    regex: str | None = None
    against: str = STEP_METRIC
    log: bool = False


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Perplexity": (
        Panel("held-out perplexity, by step", ("val/perplexity",), log=True),
        Panel("held-out perplexity, by tokens", ("val/perplexity",), against=TOKENS, log=True),
        Panel(
            "held out, by direction", ("val/perplexity_forward", "val/perplexity_backward"), against=TOKENS, log=True
        ),
        Panel("sampled perplexity (not comparable with held-out)", ("train/sampled_perplexity",), log=True),
    ),
    "Speed": (
        Panel("tokens a second", ("speed/tokens_per_second",)),
        Panel("share of time waiting for data", ("speed/data_wait_share",)),
        Panel("share of time in validations and checkpoints", ("speed/pause_share",)),
        Panel("hours left", ("speed/eta_hours",)),
        Panel("peak memory, GiB", ("memory/peak_gib",)),
    ),
    "Optimisation": (
        Panel("gradient norm before clipping", ("train/gradient_norm",), log=True),
        Panel("learning rate", ("train/learning_rate",)),
        Panel("steps dropped, not finite", ("train/bad_steps",)),
        Panel("epoch", ("train/epoch",)),
    ),
    "Norms by parameter group (train.norms_every_steps)": (
        Panel("gradients before clipping", regex="norm_pre_clip/.*", log=True),
        Panel("gradients after clipping", regex="norm_post_clip/.*", log=True),
        Panel("weights", regex="weight_norm/.*"),
        Panel("update over weight", regex="update_ratio/.*", log=True),
    ),
    "System": (
        Panel("GPU use, %", regex=r"system/gpu\.\d+\.gpu$", against="Relative Time (Wall)"),
        Panel("GPU memory, %", regex=r"system/gpu\.\d+\.memoryAllocated$", against="Relative Time (Wall)"),
        Panel("CPU, %", ("system/cpu",), against="Relative Time (Wall)"),
        Panel("network, bytes sent", ("system/network.sent",), against="Relative Time (Wall)"),
    ),
}


def main(config: DashboardConfig) -> str:
    """Save the view in the project, or write its specification to output=; return the line to print."""
    workspace = build(config)
    if config.output:
        write_bytes(
            local_path(config.output, "output"), (json.dumps(specification(workspace), indent=1) + "\n").encode()
        )
        return f"{config.output}: the view as wandb would store it; nothing was sent"
    import wandb

    try:
        return f"view: {workspace.save().url}"
    except (wandb.errors.Error, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"wandb did not take the view ({reason}); see `wandb login`, entity= and project=") from None


def build(config: DashboardConfig) -> Any:
    """Return the workspace, not saved. Raises ConfigError without the library or an entity."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ConfigError(
            "dashboards need wandb-workspaces, which is not installed; pip install 'elmo-pipeline[dashboard]'"
        ) from None
    grid = workspaces.SectionLayoutSettings(columns=2, rows=2)
    sections = [
        workspaces.Section(
            name=name,
            panels=[
                reports.LinePlot(title=p.title, x=p.against, y=[*p.metrics], metric_regex=p.regex, log_y=p.log or None)
                for p in panels
            ],
            is_open=not name.startswith("Norms"),
            layout_settings=grid,
        )
        for name, panels in SECTIONS.items()
    ]
    groups: list[Any] = [workspaces.Metric("Group")] if config.group_runs else []
    entity = config.entity or os.environ.get("WANDB_ENTITY") or _default_entity(bool(config.output))
    try:
        return workspaces.Workspace(
            entity=entity,
            project=config.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=config.name,
            sections=sections,
            settings=workspaces.WorkspaceSettings(x_axis=STEP_METRIC),
            runset_settings=workspaces.RunsetSettings(groupby=groups),
        )
    except ValueError as error:  # pydantic refuses what looks like an emoji
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"wandb refuses name={config.name!r}, project= or entity= ({reason}); give others") from None


def specification(workspace: Any) -> dict[str, Any]:
    """Return a view as wandb stores it."""
    return dict(workspace._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True))


def _default_entity(may_be_unknown: bool) -> str:
    """Return the user's own entity, which only the server knows; "" if it may be unknown."""
    if may_be_unknown:
        return ""
    import wandb

    try:
        return str(wandb.Api().default_entity)
    except (wandb.errors.Error, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"wandb does not know who you are ({reason}); run `wandb login` first, or give entity="
        ) from None
