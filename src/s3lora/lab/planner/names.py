"""Invented names, made of syllables and words, in two parts that never share one.

Which part a name belongs to is fixed by its two halves and not by a seed: no seed of the training
part can bring up a name of the test part.
"""

from __future__ import annotations

import random
from typing import Literal, get_args

from s3lora.errors import ParameterError

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

Halves = tuple[tuple[str, ...], tuple[str, ...]]
"""The first and the second halves; every first half goes with every second one."""

GIVEN: Halves = (
    tuple("Al Bre Cor Da El Fen Gar Hil Is Jo Ka Lu Mir Nel Or Pel".split()),
    tuple("da mo na ric sa ta vin wen".split()),
)
SURNAME: Halves = (
    tuple(
        "Ack Ald Bar Ber Bol Cas Cor Dav Dun Eck Fal Fen Gil Gos Hal Hor Ing Jar Kel Lan "
        "Lor Mar Mos Nor Ost Par Pel Quin Ras Ros Sal Sor Tal Tor Ul Var Ves Wal Yor Zel".split()
    ),
    tuple(
        "ack ant ard el ence ent ick in ing ison ley lin man more ow rad son und win yer".split()
    ),
)
TOWN: Halves = (
    tuple(
        "Aldra Bex Brin Corva Crann Dren Elva Fost Gant Harra Hask Ives Jedd Kess Lorn Mavi Nost "
        "Obb Ollen Perra Quell Rimm Sorra Tavi Thell Undel Vass Wenn Yarra Zell".split()
    ),
    tuple("bury by combe dale don ford ham hurst mouth port stead thorpe ton wick".split()),
)
RIVER: Halves = (
    tuple("Ae Bru Cal Den Es Fro Gle Ha Ire Ke Lo Mu".split()),
    tuple("dra gan lle mbre nna rro sk var".split()),
)
REGION: Halves = (
    tuple("Alt Bors Car Drev Est Gor Hav Kar Lev Mor Nev Ost Tarn Ver".split()),
    tuple("enmark enland ovia eshire ia andy".split()),
)
MOUNTAIN: Halves = (
    tuple("Ar Bel Cro Dol Gre Hek Jor Kra Ol Tro Ur Zan".split()),
    tuple("bek dun gar hest kul lom nath rim".split()),
)
HOUSE: Halves = (
    tuple("Amber Beacon Candle Copper Dial Ember Falcon Harp Ivory Juniper Larch Maple".split()),
    tuple("bridge court cross field gate hall mead well wood yard".split()),
)
TITLE: Halves = (
    tuple(
        "Amber Ancient Bitter Blue Broken Burning Crooked Crystal Distant Empty Fallen Final "
        "Frozen Gentle Golden Green Grey Hidden Hollow Iron Laughing Lonely Lost Midnight Painted "
        "Pale Patient Quiet Red Restless Scarlet Second Silent Silver Sleeping Stolen Velvet White "
        "Wild Winter".split()
    ),
    tuple(
        "Anchor Arrow Bell Bridge Candle Carnival Circle Compass Crown Door Feather Ferry Flame "
        "Forest Garden Harbour Horizon Island Journey Key Lantern Letter Meadow Mirror Mountain "
        "Ocean Orchard Palace Promise Ribbon River Road Shadow Ship Song Stranger Summer Tide "
        "Tower Window".split()
    ),
)
STAND_IN: Halves = (
    tuple("Bli Dro Fla Gra Kno Plo Qua Sno Thra Vro Zwi Wha".split()),
    tuple("bbix dget fferin lmor mpet ndle ston zzlo".split()),
)


def dice(*seeds: object) -> random.Random:
    """A generator of random numbers that is the same for the same seeds on every machine."""
    return random.Random(" ".join(map(str, seeds)))  # noqa: S311 - draws tasks, keeps no secret


def check_part(part: str) -> None:
    """Let a known part pass.

    Raises:
        ParameterError: if there is no such part.
    """
    if part not in PARTS:
        raise ParameterError(f"no part {part!r}", hint=f"parts: {', '.join(PARTS)}")


def pool(halves: Halves, part: Part, link: str = "") -> list[str]:
    """All names of one part: those whose halves stand at places of an even or an odd sum."""
    odd = PARTS.index(part)
    return [
        f"{first}{link}{second}"
        for i, first in enumerate(halves[0])
        for j, second in enumerate(halves[1])
        if (i + j) % 2 == odd
    ]
