"""Convert the state of a run at the end of a step to a dict of plain values and tensors, and back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config.schema import ConfigError, to_dict
from pipeline.data.lanes import lane_groups, lane_share
from pipeline.model.bilm import States
from pipeline.model.lstmp import LSTMPState
from pipeline.train.run_dir.checkpoint import load_checkpoint
from pipeline.train.run_dir.checkpoint_content import FORMAT, writer_of
from pipeline.train.run_dir.lock import check_same_run
from pipeline.train.step.collectives import all_gather, world_size
from pipeline.train.step.module import BiLMModule
from pipeline.train.step.optimizer import build_optimizer
from pipeline.train.step.parameter_kinds import parameter_kinds
from pipeline.version import __version__


def take_snapshot(module: BiLMModule, identity: dict[str, Any], vocabulary: dict[str, Tensor]) -> dict[str, Any] | None:
    """Return the content of a checkpoint on rank 0, else None. Every rank must call it, to gather the LSTM states."""
    states, state = _gather_states(module), module.state
    if module.global_rank != 0:
        return None
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return {
        "global_step": state.step,
        "state_dict": module.bilm.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "elmo": {
            "format": FORMAT,
            "version": __version__,
            "identity": identity,
            "config": to_dict(module.config),
            "vocabulary": vocabulary,
            "states": [{"h": state.h, "c": state.c} for state in states],
            "tokens": state.step * module.config.data.tokens_per_step,
            "bad_steps": state.bad_steps,
            "bad_steps_in_a_row": state.bad_steps_in_a_row,
            "validations": [list(validation) for validation in state.validations],
        },
    }


def load_snapshot(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the checkpoint at `path`. Raises ConfigError for a checkpoint of another run."""
    content = load_checkpoint(path)
    check_same_run(path, content, identity)
    return content


def restore_snapshot(module: BiLMModule, path: Path, content: dict[str, Any], rank: int, ranks: int) -> None:
    """Restore the module from the content of the checkpoint at `path`; each rank takes the states of its own lanes.

    The number of ranks may differ from that of the run that saved it. Raises ConfigError for a checkpoint of a version
    with another training state.
    """
    fault = _state_fault(module, content["elmo"]["states"]) or _load(module, content)
    if fault:
        raise ConfigError(
            f"{path} was written by {writer_of(content)}, whose training state does not fit this elmo-pipeline "
            f"{__version__} ({fault}); resume the run with the version that wrote it, or start another run.dir"
        )
    state = module.state
    state.step = content["global_step"]
    state.bad_steps = content["elmo"]["bad_steps"]
    state.bad_steps_in_a_row = content["elmo"]["bad_steps_in_a_row"]
    state.validations = [(step, perplexity) for step, perplexity in content["elmo"].get("validations", [])]
    groups = lane_groups(lane_share(module.config.data.lanes, rank, ranks), module.config.lane_groups)
    state.lstm = [
        [
            LSTMPState(s["h"][:, group.start : group.stop].clone(), s["c"][:, group.start : group.stop].clone())
            for s in content["elmo"]["states"]
        ]
        for group in groups
    ]


def _load(module: BiLMModule, content: dict[str, Any]) -> str:
    """Load the weights and the optimizer's state into the module; return the reason if they do not fit, else ''."""
    optimizer = build_optimizer(module.config.optimizer, parameter_kinds(module.bilm))
    module.optimizer_state = content["optimizer_states"][0]
    try:
        module.bilm.load_state_dict(content["state_dict"])
        optimizer.load_state_dict(module.optimizer_state)  # a trial; configure_optimizers does it again
    except (RuntimeError, ValueError) as error:  # torch's message has several lines
        return " ".join(str(error).split())[:200]
    return ""


def _state_fault(module: BiLMModule, states: list[dict[str, Tensor]]) -> str:
    """Return how the states differ in shape from those of this model's layers and lanes, '' if they do not."""
    want = [[tuple(part.shape) for part in state] for state in module.bilm.initial_states(module.config.data.lanes)]
    found = [[tuple(state["h"].shape), tuple(state["c"].shape)] for state in states]
    return "" if want == found else f"states of shapes {found}, not {want}"


def _gather_states(module: BiLMModule) -> States:
    """Return the states of all lanes of the global batch on the CPU: h (2, lanes, P) and c (2, lanes, H) per layer."""
    gathered = []
    group_lanes = module.config.data.lanes // world_size() // module.config.lane_groups
    # None before the first step.
    groups = [states or module.bilm.initial_states(group_lanes) for states in module.state.lstm]
    for layer in range(len(module.bilm.layers)):
        parts = [states[layer] for states in groups]
        h, c = (torch.cat([part[i] for part in parts], dim=1) for i in range(2))
        gathered.append(LSTMPState(_gather_lanes(h).cpu(), _gather_lanes(c).cpu()))
    return gathered


def _gather_lanes(mine: Tensor) -> Tensor:
    return all_gather(mine.transpose(0, 1)).transpose(0, 1).contiguous()
