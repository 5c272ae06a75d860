"""`elmo probe`: run one of the probes."""

import torch

from data_prep.dataset.locations import local_path
from pipeline.config.probes import PairsProbeConfig, PosProbeConfig, ProbeConfig, WsdProbeConfig
from pipeline.config.schema import require
from pipeline.tasks.probes.minimal_pairs import probe_pairs
from pipeline.tasks.probes.pos import probe_pos
from pipeline.tasks.probes.result import ProbeResult
from pipeline.tasks.probes.word_senses import probe_wsd


def run_probe(config: ProbeConfig) -> ProbeResult | str:
    """Return what a probe prints. Raises ConfigError, DataError."""
    if config.output:
        folder = local_path(config.output, "output").parent
        require(folder.is_dir(), f"output={config.output}: {folder} is no folder; make it, or name another place")
    if config.threads:
        torch.set_num_threads(config.threads)
    if isinstance(config, PosProbeConfig):
        return probe_pos(config)
    if isinstance(config, WsdProbeConfig):
        return probe_wsd(config)
    assert isinstance(config, PairsProbeConfig)
    return probe_pairs(config)
