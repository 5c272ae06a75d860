"""`elmo`, except that rank 1 draws other candidates than rank 0 from some step on.

This happens when two processors round differently in the last bits.

python -m tests.train.odd_rank COMMAND [key=value ...]
"""

import os
import sys
from typing import Any

from pipeline.cli import main
from pipeline.model.sampler import LogUniformSampler

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
        draw_differently()
    sys.exit(main())
