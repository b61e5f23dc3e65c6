"""Unicode simple case folding: one character for each, as the statuses C and S of ``CaseFolding.txt``.

Nothing that is stored depends on it, so it may follow the Unicode version of the interpreter.
"""

from __future__ import annotations

import functools

__all__ = ["equivalents", "simple_fold"]

# Of status S since Unicode 15.1, although no lower case: another character with the same full folding.
_OTHERS = {"\u1fd3": "\u0390", "\u1fe3": "\u03b0", "\ufb05": "\ufb06"}
# Beyond it no character has cases.
_END_OF_CASES = 0x20000


def simple_fold(text: str) -> str:
    """Return a text of the same length, equal for texts that differ in case alone.

    The Turkish letters U+0130 and U+0131 stay as they are, whatever the locale. Both forms of the German
    sharp s, U+00DF and U+1E9E, are the same.
    """
    return text.lower() if text.isascii() else text.translate(_foldings())


def equivalents(character: str) -> str:
    """Return all characters with the same simple folding as one character, itself among them, in order."""
    folded = simple_fold(character)
    return _classes().get(folded, folded)


@functools.cache
def _foldings() -> dict[int, str]:
    """Return the characters that another one stands for."""
    foldings = {}
    for code in range(_END_OF_CASES):
        character = chr(code)
        folded = character.casefold()
        if len(folded) > 1:
            # Of status F, which is not simple: with S as well if there is a lower case of one character.
            folded = _OTHERS.get(character) or character.lower()
        if folded != character and len(folded) == 1:
            foldings[code] = folded
    return foldings


@functools.cache
def _classes() -> dict[str, str]:
    """Return the characters of one folding together, by their folding."""
    classes: dict[str, list[str]] = {}
    for code, folded in _foldings().items():
        classes.setdefault(folded, [folded]).append(chr(code))
    return {folded: "".join(sorted(members)) for folded, members in classes.items()}
