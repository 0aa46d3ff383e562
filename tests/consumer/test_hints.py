"""What the engine says becomes one sentence that helps: what comes nearest, how it is called, where to look."""

from __future__ import annotations

import pytest

from runwire_consumer.hints import SENTENCE_CHARACTERS_MAX, explained

LOOK = "DESCRIBE runs lists the columns of a relation, FROM columns those of all; text stands in '...'."
COLUMN = 'Binder Error: Referenced column "lsos" not found in FROM clause!'
TABLE = 'Binder Error: Referenced table "c" not found!'
VALUES = 'Binder Error: Values list "runs" does not have a column named "naem"'
MACRO = "Binder Error: Macro rank_spread() does not support the supplied arguments."
CASTS = "You might need to add explicit type casts."
SAID = [
    (f'{COLUMN}\nCandidate bindings: "loss"\n\nLINE 1: select', f'{COLUMN} The nearest: "loss". {LOOK}'),
    (f"{VALUES}\n\nLINE 1: select runs.naem", f"{VALUES}. {LOOK}"),
    (f'{TABLE}\nCandidate tables: "r"\n\nLINE 1: select c.x', f'{TABLE} The nearest: "r".'),
    (
        f"{MACRO} {CASTS}\nCandidate macros:\n\trank_spread(run, metric)\n",
        f"{MACRO} It is called as rank_spread(run, metric).",
    ),
    ("Invalid Input Error: weight is 2.0: it must be below 1.", "weight is 2.0: it must be below 1."),
    ("Out of Range Error: Overflow", "Out of Range Error: Overflow."),
    ("", "ValueError"),
]


@pytest.mark.parametrize(("text", "sentence"), SAID)
def test_one_sentence_that_helps(text: str, sentence: str) -> None:
    assert explained(ValueError(text)).rstrip(".") == sentence.rstrip(".")


def test_it_has_an_end() -> None:
    assert len(explained(ValueError("x" * 10_000))) == SENTENCE_CHARACTERS_MAX
