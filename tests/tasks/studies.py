"""A small study: named entities with and without a tiny biLM, two seeds."""

from pathlib import Path

from tests.tasks.training import make_files

SETTINGS = """
tasks: [ner]
grid: {{elmo.placement: [none, default], run.seed: [1, 2]}}
settings:
  train: [{folder}/train.conll]
  dev: {folder}/dev.conll
  elmo: {{checkpoint: {folder}/bilm, cache_dir: {folder}/layers}}
  network: {{hidden: [8]}}
  words: {{dim: 8}}
  training: {{batch_size: 8, max_epochs: {epochs}, accelerator: cpu}}
  wandb: {{mode: disabled}}
  pos: {{network: {{hidden: [99]}}}}
"""


def write_study(folder: Path, epochs: int = 2) -> list[str]:
    make_files(folder)
    (folder / "study.yaml").write_text(SETTINGS.format(folder=folder, epochs=epochs))
    return [str(folder / "study.yaml"), f"dir={folder / 'study'}", "processes=2"]
