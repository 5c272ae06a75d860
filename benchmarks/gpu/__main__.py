"""Check and measure a GPU in one run of less than ten minutes: right numbers, speed, and time spent waiting.

python -m benchmarks.gpu [data.path=DATASET] [CONFIG.yaml] [key=value ...] [--parts=rates,check,speed,curves,waiting,
    evaluation,pretraining] [--lanes=128,256,512,1024] [--vocabulary=793471] [--seconds=420] [--dry] [--output=FILE]

rates        bf16 matrix products and copies, from which bounds are computed
check        training steps, every mode and precision, against the CPU in float64: benchmarks/gpu/check.py
speed        whole training steps in bf16, side by side: ours with CUDA graphs, with kernels only, in plain torch; the
             per-step PyTorch loop, eager and compiled (first number of lanes only); nn.LSTM(proj_size), no clips
curves       the losses of many steps of configs/small.yaml in bf16 and in float32
waiting      the share of our step's time that is spent waiting for the next batch from the tar shards
evaluation   the full softmax: share of its bound
pretraining  `elmo pretrain` for some time, if data.path is given

Without data.path a synthetic corpus is made. --seconds is divided among the parts. --dry: a tiny run on the CPU with
interpreted kernels, to test the script. Exit code 1 if a part failed or a number is wrong.
"""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from benchmarks.gpu.parts import PARTS, Job, Result
from benchmarks.measure.command import require_known, split_options, write_result, yaml_files
from benchmarks.synthetic import Corpus, write_corpus
from data_prep.prepare import prepare


def run(job: Job, parts: list[str], seconds: float) -> Result:
    """Return the results of the parts. A part that fails leaves its error; the other parts still run."""
    results: Result = {}
    for name in parts:
        part, share = PARTS[name]
        job.seconds, begun = share * seconds, time.perf_counter()
        print(f"\n== {name}", flush=True)
        try:
            results[name] = part(job)
        except Exception as error:
            traceback.print_exc()
            results[name] = {"right": False, "failed": f"{type(error).__name__}: {error}"}
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
        results[name]["took_seconds"] = time.perf_counter() - begun
        print(f"   {results[name]['took_seconds']:.0f} s", flush=True)
    return results


def main(arguments: list[str]) -> int:
    """Print the tables and, with --output, writes the figures as JSON."""
    defaults = {"parts": ",".join(PARTS), "lanes": "128,256,512,1024", "vocabulary": 793_471, "seconds": 420.0}
    options, rest = split_options(__doc__, arguments, **defaults, dry=False)
    require_known("parts", options["parts"].split(","), PARTS)
    if not options["dry"] and not torch.cuda.is_available():
        print("benchmarks.gpu needs an NVIDIA GPU; --dry runs its parts tiny on the CPU", file=sys.stderr)
        return 2
    if options["dry"] and os.environ.get("TRITON_INTERPRET") != "1":  # it must be there before anything imports triton
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
        return subprocess.call(command, env=os.environ | {"TRITON_INTERPRET": "1"})
    if options["dry"]:
        options |= {"lanes": "2", "vocabulary": 1100, "seconds": 0.1}
    files, pairs = yaml_files(rest, "configs/original.yaml")
    has_data = any(pair.startswith("data.path=") for pair in pairs)
    device = torch.device("cpu" if options["dry"] else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        if not has_data:
            corpus = Corpus(sentences=300 if options["dry"] else 200_000, files=2)
            paths, _ = write_corpus(Path(folder, "text"), corpus)
            prepare(paths, Path(folder, "data"), heldout=50, show_progress=False)
            pairs = [*pairs, f"data.path={folder}/data"]
        lanes = [int(number) for number in options["lanes"].split(",")]
        job = Job(device, [*files, *pairs], lanes, options["vocabulary"], options["dry"], has_data)
        results = run(job, options["parts"].split(","), options["seconds"])
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, dry: its speeds mean nothing"
    write_result(options["output"], {"machine": machine, "torch": torch.__version__, **results})
    wrong = [name for name, result in results.items() if not result.get("right", True)]
    print(f"\n{machine}; torch {torch.__version__}; {'WRONG: ' + ', '.join(wrong) if wrong else 'nothing was wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
