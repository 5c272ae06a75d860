"""Results as studies, probes, `elmo neighbors` and fine-tunings write them, with figures near the paper's."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAPER = {"squad": (81.1, 85.8), "snli": (88.0, 88.7), "srl": (81.4, 84.6), "coref": (67.2, 70.4), "sst5": (51.4, 54.7)}
MIX = {"input/layer0": 0.21, "input/layer1": 0.70, "input/layer2": 0.09, "input/gamma": 1.0}
BOTH = {**MIX, "output/layer0": 0.36, "output/layer1": 0.34, "output/layer2": 0.30, "output/gamma": 1.0}


def run(task: str, seed: int, score: float, mix: dict[str, float] | None = None, **options: Any) -> dict[str, Any]:
    """Return a record of results.json; options: with _ for the dot."""
    changes = {name.replace("_", ".", 1): value for name, value in options.items()}
    scores = {"dev/f1": score + 0.3 * (seed - 2), "test/f1": score - 0.5, "best_step": 1000 - 100 * seed}
    return {
        "task": task,
        **changes,
        "run.seed": seed,
        "main": "f1",
        **scores,
        "steps": 2000,
        "seconds": 60.5,
        **(mix or {}),
    }


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_study(folder: Path, runs: Iterable[dict[str, Any]]) -> None:
    _write(folder / "results.json", list(runs))


def write_studies(folder: Path) -> None:
    """Write the shipped studies under the folder."""
    seeds = (1, 2, 3)
    write_study(
        folder / "tasks",
        (
            run(task, seed, score, mix, elmo_placement=place)
            for task, scores in PAPER.items()
            for place, score, mix in zip(("none", "default"), scores, (None, BOTH), strict=True)
            for seed in seeds
        ),
    )
    choices: list[tuple[float, dict[str, Any]]] = [
        (88.1, {"elmo_placement": "none"}), (89.1, {"elmo_layers": "top"}), (89.3, {"elmo_l2": 1}),
        (89.5, {"elmo_l2": 0.001}),
    ]  # fmt: skip
    write_study(folder / "layers", (run("snli", s, score, **choice) for score, choice in choices for s in seeds))
    places = (("input", 84.7), ("output", 80.9), ("both", 84.3))
    write_study(folder / "placement", (run("srl", s, score, elmo_placement=p) for p, score in places for s in seeds))
    write_study(
        folder / "efficiency",
        (
            run("srl", seed, base + gain * (place == "default"), elmo_placement=place, training_share=share)
            for share, base, gain in ((0.01, 35, 25), (0.1, 60, 12), (1, 81.4, 3.2))
            for place in ("none", "default")
            for seed in seeds
        ),
    )


def shares(both: float) -> dict[str, Any]:
    return {"pairs": 1000, "with_unknown_words": 10, "forward": both - 3, "backward": both - 5, "both": both,
            "known": {"forward": None, "backward": None, "both": None}}  # fmt: skip


def write_probes(folder: Path, bilm: str = "models/general") -> None:
    for name, source, pos, wsd in (
        ("bilm", bilm, (93.0, 97.3, 96.8), (55.0, 67.4, 69.0)),
        ("cove", "runs/cove/model", (90.5, 93.3, 92.8), (50.1, 59.4, 64.7)),
    ):
        layers = [
            {
                "layer": f"layer {n}" + " (tokens)" * (n == 0),
                "dev": score,
                "test": score - 0.2,
                "best_epoch": 3,
                "epochs": 6,
            }
            for n, score in enumerate(pos)
        ]
        _write(
            folder / f"pos-{name}.json", {"probe": "pos", "source": source, "tags": 17, "data": {}, "layers": layers}
        )
        f1 = {f"layer {n}": score for n, score in enumerate(wsd)} | {"first sense": 65.9}
        scores = {layer: {"semeval2007": {"f1": 1.0}, "without semeval2007": {"f1": s}} for layer, s in f1.items()}
        _write(folder / f"wsd-{name}.json", {"probe": "wsd", "source": source, "unseen": 3, "scores": scores})
    of_field = {"morphology": shares(88.0), "syntax": shares(66.5), "semantics": shares(61.2)}
    pairs = {"probe": "pairs", "source": bilm, "all": shares(69.9), "fields": of_field, "paradigms": {}}
    _write(folder / "pairs.json", pairs)


def occurrence(cosine: float, sentence: str, place: str = "corpus.txt:7") -> dict[str, Any]:
    words = sentence.split()
    return {"cosine": cosine, "place": place, "words": words, "position": words.index("play")}


def write_neighbors(folder: Path) -> None:
    for name, query, found in (
        ("sport", "Chico Ruiz made a spectacular play on a grounder", "an all-round excellent play by the junior"),
        (
            "stage",
            "Olivia signed to do a Broadway play for Garson",
            "actors who had fat roles in a successful play",
        ),
    ):
        nearest = [occurrence(0.9, found), occurrence(0.8, "they play")]
        content = {"query": occurrence(1.0, query, "the sentence given"), "searched": 70, "is_approximate": False}
        _write(folder / f"{name}.json", {**content, "neighbors": nearest})


def figures(both: float) -> dict[str, Any]:
    return {"forward": both, "backward": both, "both": both, "bits_a_character": both / 40, "tokens": 100, "words": 90,
            "unknown": 4}  # fmt: skip


def write_finetuning(folder: Path, is_comparable: bool = True) -> None:
    after = {"domain": figures(16.8), "general": figures(45.2), "step": 900, "last_step": 1000}
    _write(folder / "finetune.json", {
        "source": {"given": "a", "path": "a", "step": 3}, "before": {"domain": figures(72.1), "general": figures(39.7)},
        "after": after, "is_comparable": is_comparable,
    })  # fmt: skip


def write_all(folder: Path) -> Path:
    write_studies(folder)
    write_probes(folder / "probes")
    write_neighbors(folder / "neighbors")
    write_finetuning(folder / "finetuned")
    return folder
