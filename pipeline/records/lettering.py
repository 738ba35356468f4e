"""Writing on pictures: capital letters, digits and some signs of 5 x 7 dots, so that no font file is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

HEIGHT, WIDTH = 7, 5
_ROWS = """
A 0E 11 11 1F 11 11 11|B 1E 11 11 1E 11 11 1E|C 0E 11 10 10 10 11 0E|D 1E 11 11 11 11 11 1E|E 1F 10 10 1E 10 10 1F
F 1F 10 10 1E 10 10 10|G 0E 11 10 17 11 11 0F|H 11 11 11 1F 11 11 11|I 0E 04 04 04 04 04 0E|J 07 02 02 02 02 12 0C
K 11 12 14 18 14 12 11|L 10 10 10 10 10 10 1F|M 11 1B 15 15 11 11 11|N 11 11 19 15 13 11 11|O 0E 11 11 11 11 11 0E
P 1E 11 11 1E 10 10 10|Q 0E 11 11 11 15 12 0D|R 1E 11 11 1E 14 12 11|S 0F 10 10 0E 01 01 1E|T 1F 04 04 04 04 04 04
U 11 11 11 11 11 11 0E|V 11 11 11 11 11 0A 04|W 11 11 11 15 15 15 0A|X 11 11 0A 04 0A 11 11|Y 11 11 11 0A 04 04 04
Z 1F 01 02 04 08 10 1F|0 0E 11 13 15 19 11 0E|1 04 0C 04 04 04 04 0E|2 0E 11 01 02 04 08 1F|3 1F 02 04 02 01 11 0E
4 02 06 0A 12 1F 02 02|5 1F 10 1E 01 01 11 0E|6 06 08 10 1E 11 11 0E|7 1F 01 02 04 08 08 08|8 0E 11 11 0E 11 11 0E
9 0E 11 11 0F 01 02 0C|. 00 00 00 00 00 0C 0C|, 00 00 00 00 0C 04 08|: 00 0C 0C 00 0C 0C 00|- 00 00 00 1F 00 00 00
+ 00 04 04 1F 04 04 00|/ 00 01 02 04 08 10 00|% 18 19 02 04 08 13 03|( 02 04 08 08 08 04 02|) 08 04 02 02 02 04 08
_ 00 00 00 00 00 00 1F|= 00 00 1F 00 1F 00 00|# 0A 0A 1F 0A 1F 0A 0A|? 0E 11 01 02 04 00 04
"""
_GLYPHS = {
    entry[0]: np.array([[int(row, 16) >> bit & 1 for bit in (4, 3, 2, 1, 0)] for row in entry[2:].split()], bool)
    for entry in _ROWS.strip().replace("\n", "|").split("|")
}
_GLYPHS[" "] = np.zeros((HEIGHT, WIDTH), bool)


def size_of(text: str, scale: int = 1) -> tuple[int, int]:
    """(height, width) in pixels of the box that `write` fills."""
    return (HEIGHT + 2) * scale, ((WIDTH + 1) * len(text) + 1) * scale


def write(picture: Picture, text: str, top: int, left: int, ink: Colour, paper: Colour, scale: int = 1) -> None:
    """Writes one line into `picture` [H,W,3], in place, on a filled box; what lies outside is cut off.

    Small letters become capitals; characters that there is no glyph for become "?".
    """
    dots = np.zeros((HEIGHT + 2, (WIDTH + 1) * len(text) + 1), bool)
    for place, character in enumerate(text.upper()):
        start = 1 + (WIDTH + 1) * place
        dots[1 : 1 + HEIGHT, start : start + WIDTH] = _GLYPHS.get(character, _GLYPHS["?"])
    dots = dots.repeat(scale, axis=0).repeat(scale, axis=1)
    top_cut, left_cut = max(0, -top), max(0, -left)
    target = picture[max(0, top) : max(0, top + dots.shape[0]), max(0, left) : max(0, left + dots.shape[1])]
    seen = dots[top_cut : top_cut + target.shape[0], left_cut : left_cut + target.shape[1]]
    target[...] = np.where(seen[..., None], np.array(ink, np.uint8), np.array(paper, np.uint8))
