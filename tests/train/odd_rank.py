"""`elmo`, except that rank 1 draws other candidates than rank 0 from some step on.

This happens when two processors round differently in the last bits. With ODD=processor in the environment, rank 1
instead has a processor with other instructions from the start.

python -m tests.train.odd_rank COMMAND [key=value ...]
"""

import os
import sys
from typing import Any

from pipeline.cli import main
from pipeline.model.sampler import LogUniformSampler
from pipeline.train import callbacks

FIRST_ODD_STEP = 5


def draw_differently() -> None:
    draw = LogUniformSampler.draw

    def odd(sampler: LogUniformSampler, *key: int) -> Any:
        ids, num_tries = draw(sampler, *key)
        if key[2] >= FIRST_ODD_STEP:
            ids[0] = next(word for word in range(sampler.vocab_size) if word not in ids)
        return ids, num_tries

    LogUniformSampler.draw = odd  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ.get("LOCAL_RANK") == "1":
        if os.environ.get("ODD") == "processor":
            callbacks.rounding_of = lambda device: "other instructions"  # type: ignore[assignment]
        else:
            draw_differently()
    sys.exit(main())
