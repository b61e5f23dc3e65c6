from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.casefolding import equivalents, simple_fold

# By CaseFolding.txt of Unicode 15.1, statuses C and S. As numbers: an editor may normalize some of these.
CLASSES = [
    (0x4B, 0x6B, 0x212A),  # K, KELVIN SIGN
    (0x53, 0x73, 0x17F),  # S, LATIN SMALL LETTER LONG S
    (0xC5, 0xE5, 0x212B),  # A with ring, ANGSTROM SIGN
    (0x3A9, 0x3C9, 0x2126),  # omega, OHM SIGN
    (0x3A3, 0x3C2, 0x3C3),  # sigma, final sigma
    (0xB5, 0x39C, 0x3BC),  # MICRO SIGN, mu
    (0xDF, 0x1E9E),  # sharp s
    (0x1C4, 0x1C5, 0x1C6),  # DZ with caron, in title case too
    (0x345, 0x399, 0x3B9, 0x1FBE),  # iota
    (0x1F80, 0x1F88),  # of status F too
    (0x390, 0x1FD3),  # since Unicode 15.1
    (0x3B0, 0x1FE3),
    (0xFB05, 0xFB06),
    (0x412, 0x432, 0x1C80),  # CYRILLIC VE
    (0x13A0, 0xAB70),  # Cherokee folds to upper case
    (0x13F0, 0x13F8),
    (0x10400, 0x10428),  # beyond the first plane
    (0x1E900, 0x1E922),
    (0x49, 0x69),  # I is not dotless
]
ALONE = [
    0x130,  # LATIN CAPITAL LETTER I WITH DOT ABOVE
    0x131,  # LATIN SMALL LETTER DOTLESS I
    *(0x149, 0x1F0, 0x587, 0xFB01),  # of status F alone
    *(0x6F22, 0x3042, 0xE44, 0x627, 0x1F600),  # without cases
    *(0x25, 0x5F, 0x5C, 0x0, 0xD800),
]


@pytest.mark.parametrize("codes", CLASSES)
def test_characters_that_differ_in_case_alone_fold_together(codes: tuple[int, ...]) -> None:
    characters = "".join(map(chr, codes))
    assert len({simple_fold(character) for character in characters}) == 1
    for character in characters:
        assert equivalents(character) == characters


@pytest.mark.parametrize("code", ALONE)
def test_a_character_without_a_simple_folding_stays_as_it_is(code: int) -> None:
    assert simple_fold(chr(code)) == equivalents(chr(code)) == chr(code)


def test_the_classes_divide_all_characters_and_folding_twice_is_folding_once() -> None:
    everything = "".join(map(chr, range(0x110000)))
    folded = simple_fold(everything)
    assert len(folded) == len(everything)
    assert simple_fold(folded) == folded
    for character, to in zip(everything, folded, strict=True):
        if character != to:
            assert character in equivalents(to)
            # The full folding, which is coarser, never tells them apart.
            assert character.casefold() == to.casefold()


def test_beyond_the_planes_that_are_looked_at_no_character_has_cases() -> None:
    rest = "".join(map(chr, range(0x20000, 0x110000)))
    assert rest.casefold() == rest.lower() == rest.upper() == rest


@given(st.text())
def test_a_text_keeps_its_length_and_folds_character_by_character(text: str) -> None:
    assert simple_fold(text) == "".join(map(simple_fold, text))
    assert len(simple_fold(text)) == len(text)


@given(st.text(st.characters(codec="ascii")))
def test_ascii_folds_to_lower_case(text: str) -> None:
    assert simple_fold(text) == text.lower()
