"""The stand-in for wandb's server, which also gives the trials of a sweep to an agent."""

import json
import re
from typing import Any

import yaml

from tests.train.wandb_server import WandbServer

SWEEP = "sweep001"


class SweepServer(WandbServer):
    """A server that gives out `trials` in order; a trial is the values of its parameters."""

    def __init__(self, trials: list[dict[str, Any]]) -> None:
        super().__init__()
        self.trials, self.config, self.given = trials, "", 0

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else ""
        project = {"id": "p", "name": "elmo", "entity": {"id": "e", "name": "tester"}}
        if operation == "UpsertSweep":
            self.config = variables["config"]
            return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
        if operation in ("SweepWithRuns", "GetSweepState"):
            sweep = {"id": "s", "name": SWEEP, "state": "RUNNING", "config": self.config, "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._commands(variables))}}
        return super().answer(query, variables)

    def _commands(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a trial for an agent that runs none; after the last trial, return the command to exit."""
        if json.loads(variables["runState"]):
            return []
        if self.given == len(self.trials):
            return [{"type": "exit"}]
        values = self.trials[self.given]
        self.given += 1
        fixed = {name: of for name, of in yaml.safe_load(self.config)["parameters"].items() if "value" in of}
        arguments = {name: {"value": of["value"]} for name, of in fixed.items()}
        arguments |= {name: {"value": value} for name, value in values.items()}
        return [{"type": "run", "run_id": f"trial{self.given}", "program": "", "args": arguments}]
