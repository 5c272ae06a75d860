"""Time, memory and disk of data preparation, compared with an obvious pipeline in one run; the result is verified.

python -m benchmarks.prep FILE... [--workers=N]        on given text: one tokenised sentence a line
python -m benchmarks.prep [--sentences=N] [--tail=X]   on a synthetic corpus (benchmarks.synthetic), else 768 M words
    [--baseline-sentences=50000] [--repeat=1] [--folder=FOLDER] [--keep=DATASET] [--output=RESULT.json]

The obvious pipeline counts words with Counter, looks ids up in a dict and writes one sentence per member with
webdataset.ShardWriter. It gets the first N sentences only, because it is slow. Memory: peak of the sum over all
processes. Disk: peak of the output folder, the finished dataset included, relative to the dataset. --repeat=10 reads
the text ten times: more text, the same types. FOLDER needs room for both datasets and the text. The dataset is removed
at the end, unless --keep names a place for it.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.process_tree import disk_bytes, run_watched
from benchmarks.synthetic import add_corpus_options, corpus_of, write_corpus
from data_prep.dataset.verify import verify
from data_prep.prepare import prepare
from data_prep.text.corpus import find_sources, read_blocks

Result = dict[str, float]


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
    begun = time.perf_counter()
    obvious_pipeline(lines, folder)
    seconds = time.perf_counter() - begun
    num_bytes = sum(path.stat().st_size for path in folder.glob("obvious-*.tar"))
    return {
        "obvious_words": words,
        "obvious_words_per_second": words / seconds,
        "obvious_bytes_per_word": num_bytes / words,
    }


def measure_prep(files: list[str], workers: int, output: Path) -> Result:
    """Return the figures of one preparation in its own process. The result is verified, which is not counted."""
    ends = {"encode_seconds": 0.0, "merge_seconds": 0.0}
    firsts = {
        "encode_seconds": "unit-000000/spill-0000/map.npy",
        "merge_seconds": "merge.json",
    }  # of the next pass

    def look(seconds: float) -> None:
        for name, first in firsts.items():
            if not (output / "index.json").exists() and not (output / ".work" / first).exists():
                ends[name] = seconds

    command = [sys.executable, "-m", "benchmarks.prep", "--only-prepare", str(output), "--workers", str(workers)]
    cost = run_watched([*command, *files], output, look)
    summary = json.loads(cost.output.splitlines()[-1])
    begun = time.perf_counter()
    report = verify(output)
    assert report.ok, str(report)
    words, seconds = summary["words"], summary["seconds"]
    encode, merge = ends["encode_seconds"], ends["merge_seconds"]
    return {
        "words": words, "sentences": summary["sentences"], "types": summary["types"], "seconds": seconds,
        "cpu_seconds": cost.cpu_seconds, "encode_seconds": encode, "merge_seconds": merge - encode,
        "shard_seconds": cost.seconds - merge, "words_per_second": words / seconds,
        "bytes_per_word": sum(path.stat().st_size for path in output.glob("*.tar")) / words,
        "peak_rss_mib": cost.peak_rss_bytes / 2**20, "peak_private_mib": cost.peak_private_bytes / 2**20,
        "peak_disk_bytes": cost.peak_disk_bytes, "peak_disk_ratio": cost.peak_disk_bytes / disk_bytes(output),
        "verify_seconds": time.perf_counter() - begun,
    }  # fmt: skip


def measure(files: list[str], workers: int, baseline_sentences: int, folder: Path, dataset: Path) -> Result:
    """Return the figures by name. dataset: the folder of our dataset."""
    obvious = measure_obvious(files, baseline_sentences, folder)
    ours = measure_prep(files, workers, dataset)
    ratios = {
        "speed_ratio": ours["words_per_second"] / obvious["obvious_words_per_second"],
        "bytes_ratio": obvious["obvious_bytes_per_word"] / ours["bytes_per_word"],
    }
    return ours | obvious | ratios


def repeated(files: list[str], times: int, folder: Path) -> list[str]:
    """Return the text repeated `times` times as one plain file, or the files themselves if times is 1."""
    if times == 1:
        return files
    path = folder / "repeated.txt"
    with open(path, "wb") as out:
        for _ in range(times):
            for source in find_sources(files, [], ""):
                out.writelines(block.data for block, _ in read_blocks(source.path))
    return [str(path)]


def table(result: Result) -> str:
    """Return the figures as a printed table."""
    r = result
    return "\n".join(
        [
            f"{'':<20}{'this':>14}{'the obvious':>14}{'ratio':>8}",
            f"{'words':<20}{r['words']:>14,.0f}{r['obvious_words']:>14,.0f}",
            f"{'words/s':<20}{r['words_per_second']:>14,.0f}{r['obvious_words_per_second']:>14,.0f}"
            f"{r['speed_ratio']:>8.1f}",
            f"{'bytes a word':<20}{r['bytes_per_word']:>14.2f}{r['obvious_bytes_per_word']:>14.2f}"
            f"{r['bytes_ratio']:>8.1f}",
            f"{r['sentences']:,.0f} sentences, {r['types']:,.0f} types",
            f"{r['seconds']:,.1f} s (reading {r['encode_seconds']:,.1f}, lexicon {r['merge_seconds']:,.1f}, shards "
            f"{r['shard_seconds']:,.1f}), {r['cpu_seconds']:,.1f} CPU seconds",
            f"verified in {r['verify_seconds']:,.1f} s",
            f"peak memory of all processes {r['peak_rss_mib']:,.0f} MiB, without mapped files "
            f"{r['peak_private_mib']:,.0f} MiB",
            f"peak disk {r['peak_disk_bytes'] / 1e6:,.0f} MB, {r['peak_disk_ratio']:.2f} x the dataset",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prep")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--baseline-sentences", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", help="where text and dataset are put meanwhile [default: the system's]")
    parser.add_argument("--keep", type=Path, help="where the dataset is made, and stays")
    parser.add_argument("--output")
    parser.add_argument("--only-prepare", help=argparse.SUPPRESS)
    add_corpus_options(parser)
    return parser


def main() -> None:
    """Print the table and, with --output, write the figures as JSON."""
    arguments = _parser().parse_args()
    if arguments.only_prepare:
        summary = prepare(arguments.text, arguments.only_prepare, workers=arguments.workers)
        counts = {"words": summary.num_words, "sentences": summary.num_sentences, "types": summary.types}
        print(json.dumps(counts | {"seconds": summary.seconds}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, files = Path(name), arguments.text
        if not files:
            write_corpus(folder / "text", corpus_of(arguments), arguments.workers or os.cpu_count() or 1)
            files = [str(folder / "text")]
        files, dataset = repeated(files, arguments.repeat, folder), arguments.keep or folder / "ours"
        result = measure(files, arguments.workers, arguments.baseline_sentences, folder, dataset)
    print(table(result))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
