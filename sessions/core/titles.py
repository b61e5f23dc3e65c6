"""The title of a session, from the text of its first message."""

from __future__ import annotations

import unicodedata

__all__ = ["title_of"]

MAX_LENGTH = 60
# More than the title needs: white space and controls are removed.
LOOK_AT = 1000
ELLIPSIS = "…"
JOINER = "\u200d"
# Separates a word of Persian or Hindi, or joins an emoji; the other invisible characters may hide a text.
KEPT_INVISIBLE = {"\u200c", JOINER}

# Scripts that put no space between words, by code point: Thai and Lao, Tibetan, Burmese, Khmer and their
# extensions, then Han and kana. Korean has spaces.
_WITHOUT_SPACES = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF)),
    *((0x2E80, 0x2FDF), (0x3001, 0x312F), (0x31A0, 0xA4CF), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF)),
    *((0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF00, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x3FFFD)),
)


def title_of(text: str) -> str | None:
    """Return the beginning of a text as a title of at most 60 characters, or None if it has no word.

    A longer text is cut between words, in scripts without spaces between characters, and ends with an
    ellipsis. No character is separated from its marks.
    """
    shown = "".join(map(_shown, text.lstrip()[:LOOK_AT]))
    line = " ".join(shown.split())
    if not any(unicodedata.category(character)[0] in "LNPS" for character in line):
        return None
    if len(line) <= MAX_LENGTH:
        return line
    cut = MAX_LENGTH - len(ELLIPSIS)
    end = next((end for end in range(cut, 0, -1) if _ends_word(line, end)), 0)
    if not end:  # One long word, such as a URL.
        end = next((end for end in range(cut, 0, -1) if not _is_joined(line, end)), cut)
    while end and unicodedata.category(line[end - 1]) in ("Pd", "Pi", "Po", "Ps", "Zs"):
        end -= 1
    return line[:end] + ELLIPSIS


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") and character not in KEPT_INVISIBLE else character


def _ends_word(line: str, end: int) -> bool:
    before, after = line[end - 1], line[end]
    if after == " ":
        return True
    if _is_joined(line, end) or before == " ":
        return False
    return _is_without_spaces(before) or _is_without_spaces(after)


def _is_without_spaces(character: str) -> bool:
    code = ord(character)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _WITHOUT_SPACES)


def _is_joined(line: str, end: int) -> bool:
    """Return whether the characters before and after a place are shown as one."""
    before, after = line[end - 1], line[end]
    if after in KEPT_INVISIBLE or before == JOINER or unicodedata.category(after)[0] == "M":
        return True
    if 0x1F3FB <= ord(after) <= 0x1F3FF:  # Skin tones.
        return True
    if 0x1160 <= ord(after) <= 0x11FF:  # The vowel and the end of a decomposed Korean syllable.
        return True
    if _is_flag_half(before) and _is_flag_half(after):
        halves = 0
        while halves < end and _is_flag_half(line[end - 1 - halves]):
            halves += 1
        return halves % 2 == 1
    # Thai and Lao write some vowels before their consonant; SARA AM follows it.
    return before in "เแโใไເແໂໃໄ" or after in "ำຳ"


def _is_flag_half(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF
