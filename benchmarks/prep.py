"""Measure time, memory and disk of data preparation, compared with an obvious pipeline; verify the result.

python -m benchmarks.prep FILE... [--workers=N]        on given text: one tokenised sentence a line
python -m benchmarks.prep [--sentences=N] [--tail=X]   on a synthetic corpus (benchmarks.synthetic), else 768 M words
    [--baseline-sentences=50000] [--folder=FOLDER] [--keep=DATASET] [--output=RESULT.json]

The obvious pipeline counts words with Counter, looks ids up in a dict and writes one sentence per member with
webdataset.ShardWriter. It gets the first N sentences only, because it is slow. Memory: peak of the sum over all
processes. Disk: peak of the output folder, the finished dataset included, relative to the dataset. FOLDER needs room
for both datasets and the text. The dataset is removed at the end, unless --keep names a place for it.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure.clock import seconds_of
from benchmarks.measure.command import split_options, table, write_result
from benchmarks.synthetic import Corpus, corpus_of, write_corpus
from data_prep.dataset.verify import verify
from data_prep.text.corpus import find_sources, read_blocks

Result = dict[str, float]

_POLL_SECONDS = 0.1
_PREPARE = """
import sys
from data_prep.prepare import prepare
made = prepare(sys.argv[3:], sys.argv[1], workers=int(sys.argv[2]))
print(made.num_words, made.num_sentences, made.types, made.seconds)
"""


@dataclass
class Cost:
    """Cost of a command. memory: sum over its processes; shared pages count once for each process."""

    output: str = ""
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_disk_bytes: int = 0


def run_watched(command: list[str], folder: Path) -> Cost:
    """Run a preparation into `folder` to its end; return its standard output and its cost."""
    cost, cpu = Cost(), os.times()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            cost.peak_memory_bytes = max(cost.peak_memory_bytes, memory_bytes(process.pid))
            cost.peak_disk_bytes = max(cost.peak_disk_bytes, disk_bytes(folder))
            time.sleep(_POLL_SECONDS)
        assert process.stdout is not None
        cost.output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    now = os.times()
    cost.cpu_seconds = now.children_user + now.children_system - cpu.children_user - cpu.children_system
    return cost


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and of its descendants at this moment, in bytes."""
    total, root = 0, psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            total += process.memory_info().rss
    return total


def disk_bytes(folder: Path) -> int:
    """Return the disk space of the files below a folder, in bytes."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_blocks * 512
            except OSError:  # renamed or removed since it was listed
                continue
    return total


def lines_of(files: list[str]) -> Iterator[str]:
    """Yield the non-empty lines of the files."""
    for source in find_sources(files, [], ""):
        for block, _ in read_blocks(source.path):
            yield from (line for line in block.data.decode().split("\n") if line.strip())


def obvious_pipeline(lines: list[str], folder: Path) -> None:
    """Count, number and write the sentences in the most straightforward way."""
    import webdataset

    counts = Counter(word for line in lines for word in line.split())
    ids = {word: number + 3 for number, (word, _) in enumerate(counts.most_common())}
    with webdataset.ShardWriter(str(folder / "obvious-%06d.tar"), maxcount=100_000, verbose=0) as writer:
        for number, line in enumerate(lines):
            tokens = np.array([ids[word] for word in line.split()] + [1], np.int32)
            writer.write({"__key__": f"{number:09d}", "tokens.npy": tokens})


def measure_obvious(files: list[str], sentences: int, folder: Path) -> Result:
    """Return the obvious pipeline's figures on the first sentences of the files."""
    lines = list(itertools.islice(lines_of(files), sentences))
    words = sum(len(line.split()) for line in lines)
    seconds = seconds_of(lambda: obvious_pipeline(lines, folder)).wall
    num_bytes = sum(path.stat().st_size for path in folder.glob("obvious-*.tar"))
    rates = {"obvious_words_per_second": words / seconds, "obvious_bytes_per_word": num_bytes / words}
    return rates | {"obvious_words": words}


def measure_prep(files: list[str], workers: int, output: Path) -> Result:
    """Return the figures of one preparation in its own process. The result is verified, which is not counted."""
    cost = run_watched([sys.executable, "-c", _PREPARE, str(output), str(workers), *files], output)
    words, sentences, types, seconds = map(float, cost.output.splitlines()[-1].split())
    begun = time.perf_counter()
    report = verify(output)
    assert report.ok, str(report)
    result = {"words": words, "sentences": sentences, "types": types, "verify_seconds": time.perf_counter() - begun}
    result |= {"seconds": seconds, "cpu_seconds": cost.cpu_seconds, "words_per_second": words / seconds}
    result |= {"peak_memory_mib": cost.peak_memory_bytes / 2**20}
    ratio, num_bytes = cost.peak_disk_bytes / disk_bytes(output), sum(p.stat().st_size for p in output.glob("*.tar"))
    result |= {"peak_disk_bytes": cost.peak_disk_bytes, "peak_disk_ratio": ratio}
    return result | {"bytes_per_word": num_bytes / words}


def measure(files: list[str], workers: int, baseline_sentences: int, folder: Path, dataset: Path) -> Result:
    """Return the figures by name. dataset: the folder of our dataset."""
    r = measure_obvious(files, baseline_sentences, folder) | measure_prep(files, workers, dataset)
    speed = r["words_per_second"] / r["obvious_words_per_second"]
    return r | {"speed_ratio": speed, "bytes_ratio": r["obvious_bytes_per_word"] / r["bytes_per_word"]}


def print_tables(r: Result) -> None:
    """Print the figures."""
    words = ["words", f"{r['words']:,.0f}", f"{r['obvious_words']:,.0f}", "-"]
    rates = [f"{r['words_per_second']:,.0f}", f"{r['obvious_words_per_second']:,.0f}", f"{r['speed_ratio']:.1f}"]
    sizes = [f"{r['bytes_per_word']:.2f}", f"{r['obvious_bytes_per_word']:.2f}", f"{r['bytes_ratio']:.1f}"]
    print(table(["", "ours", "obvious", "ratio"], [words, ["words/s", *rates], ["bytes a word", *sizes]]))
    print(f"{r['sentences']:,.0f} sentences, {r['types']:,.0f} types")
    print(f"{r['seconds']:,.1f} s, {r['cpu_seconds']:,.1f} CPU seconds; verified in {r['verify_seconds']:,.1f} s")
    print(f"peak memory of all processes {r['peak_memory_mib']:,.0f} MiB")
    print(f"peak disk {r['peak_disk_bytes'] / 1e6:,.0f} MB, {r['peak_disk_ratio']:.2f} x the dataset")


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    defaults = {"workers": 0, "baseline_sentences": 50_000, "folder": "", "keep": "", **asdict(Corpus())}
    options, files = split_options(__doc__, arguments, **defaults)
    with tempfile.TemporaryDirectory(dir=options["folder"] or None) as name:
        folder = Path(name)
        if not files:
            write_corpus(folder / "text", corpus_of(options), options["workers"] or os.cpu_count() or 1)
            files = [str(folder / "text")]
        dataset = Path(options["keep"] or folder / "ours")
        result = measure(files, options["workers"], options["baseline_sentences"], folder, dataset)
    print_tables(result)
    write_result(options["output"], result)


if __name__ == "__main__":
    main(sys.argv[1:])
