"""Excerpts of real data in each format, and functions that write them."""

import json
from typing import Any

CONTEXT = "The 1973–1974 oil crisis began in October 1973\nwhen the members of OPEC proclaimed an oil embargo."

PAIRS = [  # SNLI, train and dev
    ("entailment", "A child in green shoes staring down a drain.", "a child staring someone"),
    ("-", "Two women are embracing.", "Two women are sisters."),
    ("neutral", "Two women aren't embracing.", "Two women are sisters."),
]


ROWS = """
0 John NNP (TOP(S(NP*) - - - Speaker#1 (PERSON) (ARG0*) (ARG0*) (0)
1 wants VBZ (VP* want 01 1 Speaker#1 * (V*) * -
2 to TO (S(VP* - - - Speaker#1 * (ARG1* * -
3 wash VB (VP* wash 01 2 Speaker#1 * * (V*) -
4 his PRP$ (NP* - - - Speaker#1 * * (ARG1* (1|(0)
5 car NN *)))))) - - - Speaker#1 * *) *) 1)
6 . . *)) - - - Speaker#1 * * * -

0 It PRP (TOP(S(NP*) - - - - * (1)
1 shines VBZ (VP*) - - - - * -
"""


def document(rows: str = ROWS) -> str:
    body = "\n".join(f"bc/tale/00/tale_0001 0 {row}" if row else "" for row in rows.strip().split("\n"))
    return f"#begin document (bc/tale/00/tale_0001); part 000\n{body}\n\n#end document\n"


WIKIGOLD = "010\tB-MISC\nis\tO\nJapanese\tB-MISC\nPunk\tO\nThe\tB-ORG\nMad\tI-ORG\nCapsule\tI-ORG\n.\tO\n\nThis\tO\n"


CRISIS = {  # SQuAD 1.1, dev
    "id": "5725b33f6a3fe71400b8952d",
    "question": "When did the 1973 oil crisis begin?",
    "answers": [{"text": "October 1973", "answer_start": 34}, {"text": "1973", "answer_start": 42}],
}


TSV = "gold_label\tsentence1\tsentence2\n" + "".join("\t".join(pair) + "\n" for pair in PAIRS)


TREES = "(3 (2 It) (4 (4 (2 's) (3 good)) (2 -LRB-)))\n(1 (2 No) (0 one))\n"  # Stanford Sentiment Treebank, shortened


def squad(question: dict[str, Any], context: str = CONTEXT, **more: Any) -> str:
    return json.dumps(
        {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}]} | more
    )


STORY = {  # PropBank's annotation of UD_English-EWT
    "id": "weblog-0001",
    "tokens": ["From", "the", "AP", "comes", "this", "story", ":"],
    "frames": [{"pred": 3, "sense": "come.03", "tags": ["B-ARG2", "I-ARG2", "I-ARG2", "B-V", "B-ARG1", "I-ARG1", "O"]}],
}


DRACULA = {
    "doc": "345_dracula",
    "sentences": [["CHAPTER", "I", "JONATHAN", "HARKER", "'S", "JOURNAL"], ["He", "left", "Munich", "."]],
    "clusters": [[[2, 3], [6, 6]], [[8, 8]]],
}


CONLL2012 = document()


def json_line(base: dict[str, Any], **changes: Any) -> str:
    return json.dumps(base | changes) + "\n"
