"""The command `elmo cove`. Heavy imports stand inside, so that errors of the command line are instant."""

from pipeline.config.cove import COVE_COMMANDS, CoveConfig, CoveImportConfig
from pipeline.config.load import load
from pipeline.config.schema import require
from pipeline.config.terminal import print_text
from pipeline.train.cluster import signals
from pipeline.train.cluster.torchrun_env import torchrun_shape


def main(arguments: list[str]) -> int:
    """Run `elmo cove train` or `elmo cove import`; return the exit code."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    require(action in COVE_COMMANDS, "elmo cove is followed by train or import, as in: elmo cove train source=FILE ...")
    if action == "import":
        from pipeline.tasks.cove.published import import_cove

        print_text(import_cove(load(CoveImportConfig, rest)))
        return 0
    signals.install()
    config = load(CoveConfig, [*torchrun_shape("training"), *rest])
    from pipeline.tasks.cove.run import train_cove
    from pipeline.train.trainer import global_rank

    result, rank = train_cove(config), global_rank(config.training)
    if rank == 0:
        print_text(result)
        if result.stopped_by is None:
            model = result.run_dir / "model"
            print_text(f"Next: elmo task ner elmo.checkpoint={model} train=FILE dev=FILE run.dir=DIR")
    return result.exit_code(rank)
