"""What the engine says of a query, as one sentence that also says where to look."""

from __future__ import annotations

import re

SENTENCE_CHARACTERS_MAX = 500

_COLUMN = re.compile(r"Referenced column|does not have a column named")
_CANDIDATES = re.compile(r"^Candidate (?:bindings|tables): (.+)$", re.MULTILINE)
_MACRO = re.compile(r"^Candidate macros:\n\t(.+)$", re.MULTILINE)
_LOOK = "DESCRIBE runs lists the columns of a relation, FROM columns those of all; text stands in '...'."
_OURS = "Invalid Input Error: "  # what a macro of ours says by error() is a sentence already


def explained(error: Exception) -> str:
    """The first line of an error of the engine, and what helps: nearest names, the right call, a list of columns."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    sentence = lines[0].removeprefix(_OURS) if lines else type(error).__name__
    if macro := _MACRO.search(text):
        sentence = f"{sentence.partition(' You might')[0]} It is called as {macro[1]}."
    elif nearest := _CANDIDATES.search(text):
        sentence = f"{sentence} The nearest: {nearest[1]}."
    if not sentence.endswith((".", "!", "?", "…")):
        sentence += "."
    if _COLUMN.search(sentence):
        sentence = f"{sentence} {_LOOK}"
    return sentence if len(sentence) <= SENTENCE_CHARACTERS_MAX else sentence[: SENTENCE_CHARACTERS_MAX - 1] + "…"
