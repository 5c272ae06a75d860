"""`python -m tests.fuzz [cases=10000] [seed=0] [only=index,text] [minutes=10] [jobs=2]`: damage all that is read.
`python -m tests.fuzz area=index case=123 seed=0`: repeat one case and keep its files.

Print a table by area, and each kind of failure with a command that repeats it; exit with code 1 on a failure.
"""

import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

# Set before torch and the hub's client are imported: one thread, no network. Not in the runner, which pytest imports.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", WANDB_MODE="disabled", MPLBACKEND="agg")

from tests.fuzz.runner import again, fuzz

OPTIONS = {"cases": "10000", "seed": "0", "only": "", "minutes": "1000", "jobs": "2", "area": "", "case": "0"}


def main(arguments: list[str]) -> int:
    unknown = [argument for argument in arguments if argument.partition("=")[0] not in OPTIONS or "=" not in argument]
    if unknown:
        print(f"{__doc__}\nnot {unknown[0]!r}", file=sys.stderr)
        return 2
    options = OPTIONS | dict(argument.split("=", 1) for argument in arguments)
    root, seed = Path(mkdtemp(prefix="elmo-fuzz-")), int(options["seed"])
    if options["area"]:
        return again(root, options["area"], int(options["case"]), seed)
    only = [name for name in options["only"].split(",") if name]
    report = fuzz(root, int(options["cases"]), seed, only, float(options["minutes"]), int(options["jobs"]))
    print(report)
    shutil.rmtree(root, ignore_errors=True)
    return 1 if report.failures else 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # at a usual end triton, if torch has loaded it, prints a page of leaks
