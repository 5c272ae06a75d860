"""Raw text is split into the sentences and words that a reader would find in it."""

import pytest

from data_prep.text.tokenizer import Tokenizer
from tests.corpora import sentences_of

ENGLISH = {
    "He left. She stayed.": ["He left .", "She stayed ."],
    'He left. "Hello," she said. "I don\'t know." So?': [
        "He left .",
        '" Hello , " she said .',
        '" I do n\'t know . "',
        "So ?",
    ],
    "“Stop!” he cried. “Go.” ‘Why?’ asked Tom.": ["“ Stop ! ” he cried .", "“ Go . ”", "‘ Why ? ’ asked Tom ."],
    "Mr. Smith of the U.S. Army met Dr. J. R. Jones at 5 p.m. on Monday.": [
        "Mr. Smith of the U.S. Army met Dr. J. R. Jones at 5 p.m. on Monday ."
    ],
    "Col. Brown paid $3.50, i.e. 10% more. See No. 5. No. He did not.": [
        "Col. Brown paid $ 3.50 , i.e. 10 % more .",
        "See No . 5 .",
        "No .",
        "He did not .",
    ],
    "Was it?! Yes... (It was.) Well... maybe.": ["Was it ? !", "Yes ...", "( It was . )", "Well ... maybe ."],
    "  a \t b  ": ["a b"],
    "...": ["..."],
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_split_into_sentences_and_words(text):
    found, counts = Tokenizer("en").split(text + "\n")
    assert found.splitlines() == ENGLISH[text]
    assert counts.tolist() == [len(ENGLISH[text])]


def test_line_numbers_and_empty_lines_are_kept():
    found, counts = Tokenizer("en").split("One. Two.\n\n \nThree.\n")
    assert found == "One .\nTwo .\n\n\nThree .\n"
    assert counts.tolist() == [2, 1, 1, 1]


def test_other_languages_have_their_own_rules():
    assert Tokenizer("fr").split("« Non ! » dit Jean. Oui.\n")[0] == "« Non ! » dit Jean .\nOui .\n"
    assert Tokenizer("de").split("Er kam z.B. am 5. Mai. Gut.\n")[0] == "Er kam z.B. am 5. Mai .\nGut .\n"
    assert Tokenizer("zh").split("他说“好。”再见。我\n")[0] == "他 说 “ 好 。 ”\n再 见 。\n我\n"


def test_errors_in_raw_text_have_line_numbers_of_the_raw_file(prepare, tmp_path):
    (tmp_path / "a.txt").write_text("One day. Two days!\n\nBad \x00 line. Really.\nAn <S> too.\nLast.\n")
    summary = prepare([str(tmp_path / "a.txt")], tmp_path / "out", tokenize=True, shuffle="none", on_error="skip")
    assert sentences_of(tmp_path / "out") == ["One day .", "Two days !", "Last ."]
    assert [fault.split(":")[1] for fault in summary.first_skipped] == ["3", "4"]
    assert (summary.lines, summary.empty_lines) == (5, 1)
