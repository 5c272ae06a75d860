#!/bin/sh
# Install a wheel into an empty virtual environment, far from the clone, and use what it brings: sh tests/try_wheel.sh WHEEL
set -eu
wheel=$(realpath "$1")
clone=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sh "$clone/install.sh" "$folder/venv" "$wheel"
cd "$folder"
PATH=$folder/venv/bin:$PATH
unset PYTHONPATH
echo '--- a dataset and a training by the name of a config'
python -c 'for n in range(400): print(f"sentence {n} has a few words and the number {n % 7} .")' >text.txt
elmo prep input=text.txt output=data heldout=0.05 workers=1
elmo pretrain small data.path=data run.dir=run data.lanes=4 data.window=8 data.vocab_min_count=1 data.workers=0 \
    softmax.num_samples=8 model.lstm_dim=32 model.projection_dim=16 train.max_steps=3 train.accelerator=cpu wandb.mode=disabled
elmo export checkpoint=run output=model
echo '--- the library'
python - <<'END'
from pathlib import Path
import pipeline
from pipeline import Elmo

assert Path(pipeline.__file__).is_relative_to(Path.cwd() / "venv"), pipeline.__file__
elmo = Elmo.from_pretrained("model")
print(elmo([["a", "few", "words"]]).mixed[0].shape)
END
echo '--- the Slurm scripts, and the code that a job of theirs would run'
elmo slurm copy=cluster
bash cluster/slurm/pin.sh "$folder/cluster" "$folder/pinned" small data.path=data run.dir=run
cat pinned/REVISION
cd / && PYTHONPATH=$folder/pinned "$folder/venv/bin/elmo" preflight small "data.path=$folder/data" "run.dir=$folder/run"
echo "try_wheel: $(basename "$wheel") passed"
