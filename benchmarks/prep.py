"""Speed, size and memory of data preparation on given text, beside the obvious pipeline, in one run.

python -m benchmarks.prep FILE... [--workers=N] [--baseline-sentences=N] [--output=RESULT.json]

FILE: one tokenised sentence a line, as `elmo prep` takes it. The obvious pipeline counts words with Counter, looks
ids up in a dict and writes a sentence a member with webdataset.ShardWriter; it gets the first N sentences only, as it
is slow. Peak memory is that of single-process preparations of the text once and ten times over (the same types).
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.corpus import find_sources, read_blocks
from data_prep.prepare import prepare
from data_prep.verify import verify

_TEN = 10


def lines_of(files: list[str]) -> Iterator[str]:
    """The non-empty lines of the files."""
    for source in find_sources(files, [], ""):
        for block, _ in read_blocks(source.path):
            yield from (line for line in block.data.decode().split("\n") if line.strip())


def obvious_pipeline(lines: list[str], folder: Path) -> None:
    """Counts, numbers and writes the sentences in the way that comes to mind first."""
    import webdataset

    counts = Counter(word for line in lines for word in line.split())
    ids = {word: number + 3 for number, (word, _) in enumerate(counts.most_common())}
    with webdataset.ShardWriter(str(folder / "obvious-%06d.tar"), maxcount=100_000, verbose=0) as writer:
        for number, line in enumerate(lines):
            tokens = np.array([ids[word] for word in line.split()] + [1], np.int32)
            writer.write({"__key__": f"{number:09d}", "tokens.npy": tokens})


def peak_mib(files: list[str], output: Path) -> float:
    """Peak resident memory, MiB, of a process that prepares the files by itself."""
    command = [sys.executable, "-m", "benchmarks.prep", "--only-memory", str(output), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints the table and, with --output, writes it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prep")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--baseline-sentences", type=int, default=50_000)
    parser.add_argument("--output")
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_memory:
        prepare(arguments.files, arguments.only_memory, workers=1, show_progress=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.files, arguments.workers, arguments.baseline_sentences, Path(folder))
    print(table(result))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


def measure(files: list[str], workers: int, baseline_sentences: int, folder: Path) -> dict[str, float]:
    """The figures by name."""
    summary = prepare(files, folder / "ours", workers=workers)
    assert verify(folder / "ours").ok
    lines = list(itertools.islice(lines_of(files), baseline_sentences))
    words = sum(len(line.split()) for line in lines)
    begun = time.monotonic()
    obvious_pipeline(lines, folder)
    seconds = time.monotonic() - begun
    obvious_bytes = sum(path.stat().st_size for path in folder.glob("obvious-*.tar"))
    shard_bytes = sum(path.stat().st_size for path in (folder / "ours").glob("*.tar"))
    ten_times = folder / "ten-times.txt"
    with open(ten_times, "wb") as file:
        for _ in range(_TEN):
            file.writelines(
                block.data for source in find_sources(files, [], "") for block, _ in read_blocks(source.path)
            )
    return {
        "words": summary.words,
        "seconds": summary.seconds,
        "words_per_second": summary.words / summary.seconds,
        "bytes_per_word": shard_bytes / summary.words,
        "obvious_words": words,
        "obvious_words_per_second": words / seconds,
        "obvious_bytes_per_word": obvious_bytes / words,
        "speed_ratio": summary.words / summary.seconds * seconds / words,
        "bytes_ratio": obvious_bytes / words / (shard_bytes / summary.words),
        "peak_mib_once": peak_mib(files, folder / "once"),
        "peak_mib_ten_times": peak_mib([str(ten_times)], folder / "ten"),
    }


def table(result: dict[str, float]) -> str:
    """The figures as a table to read."""
    return "\n".join(
        [
            f"{'':<20}{'this':>14}{'the obvious':>14}{'ratio':>8}",
            f"{'words':<20}{result['words']:>14,.0f}{result['obvious_words']:>14,.0f}",
            f"{'words/s':<20}{result['words_per_second']:>14,.0f}{result['obvious_words_per_second']:>14,.0f}"
            f"{result['speed_ratio']:>8.1f}",
            f"{'bytes a word':<20}{result['bytes_per_word']:>14.2f}{result['obvious_bytes_per_word']:>14.2f}"
            f"{result['bytes_ratio']:>8.1f}",
            f"peak memory: {result['peak_mib_once']:,.0f} MiB, with ten times the text "
            f"{result['peak_mib_ten_times']:,.0f} MiB",
        ]
    )


if __name__ == "__main__":
    main()
