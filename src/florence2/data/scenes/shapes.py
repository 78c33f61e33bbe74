"""The vocabulary of drawn things: which drawings go by a label, and how each may be turned, stretched and coloured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florence2.data.scenes import drawings
from florence2.data.scenes.drawings import plain
from florence2.data.scenes.strokes import Part, bar, disc, regular


@dataclass(frozen=True)
class Shape:
    """How a label may be drawn and turned."""

    drawings: tuple[Callable[[], Sequence[Part]], ...]
    turn: float = 10
    """Degrees to either side."""
    stretch: float = 0.1
    """Share by which it may be wider or higher."""
    usual: tuple[str, ...] = ()
    """Colours that it has more often than others."""


_STEPS = (34.0, 66.0, 66.0, 100.0, 100.0, 66.0, 66.0, 34.0, 34.0, 0.0, 0.0, 34.0)
CROSS = tuple(zip(_STEPS, _STEPS[9:] + _STEPS[:9], strict=True))

SHAPES: dict[str, Shape] = {
    "circle": Shape((plain(disc(50, 50, 50)),), 0, 0),
    "square": Shape((plain(bar(0, 0, 100, 100)),), 12, 0),
    "triangle": Shape((plain(((50, 7), (100, 93), (0, 93))),), 16, 0.15),
    "diamond": Shape((plain(((50, 0), (86, 50), (50, 100), (14, 50))),), 8, 0.05),
    "pentagon": Shape((plain(regular(5)),), 36, 0),
    "hexagon": Shape((plain(regular(6)),), 30, 0),
    "oval": Shape((plain(disc(50, 50, 50, 29)),), 180, 0),
    "star": Shape((plain(regular(5, 50, 21)), plain(regular(5, 50, 25))), 36, 0, ("yellow",)),
    "heart": Shape((drawings.heart,), 20, 0.08, ("red", "pink")),
    "ring": Shape((drawings.ring,), 180, 0),
    "cross": Shape((plain(CROSS),), 12, 0),
    "arrow": Shape((plain(((0, 36), (54, 36), (54, 12), (100, 50), (54, 88), (54, 64), (0, 64))),), 180, 0.1),
    "moon": Shape((drawings.moon,), 25, 0, ("yellow", "white")),
    "sun": Shape((drawings.sun,), 30, 0, ("yellow", "orange")),
    "cloud": Shape((drawings.cloud,), 4, 0.12, ("white", "gray")),
    "house": Shape((drawings.house,), 5, 0.12),
    "tree": Shape((drawings.tree, drawings.pine), 6, 0.12, ("green",)),
    "car": Shape((drawings.car,), 8, 0.08),
    "truck": Shape((drawings.truck,), 8, 0.08),
    "bus": Shape((drawings.bus,), 8, 0.08),
    "boat": Shape((drawings.sailboat, drawings.ship), 8, 0.1),
    "airplane": Shape((drawings.plane,), 25, 0.06),
    "rocket": Shape((drawings.rocket,), 45, 0.08),
    "flower": Shape((drawings.flower, drawings.tulip), 12, 0.1),
    "leaf": Shape((drawings.leaf,), 180, 0.08, ("green",)),
    "mushroom": Shape((drawings.mushroom,), 8, 0.12, ("red", "brown")),
    "apple": Shape((drawings.apple,), 15, 0.05, ("red", "green")),
    "cup": Shape((drawings.cup,), 8, 0.1),
    "bottle": Shape((drawings.bottle,), 15, 0.08),
    "cake": Shape((drawings.cake,), 5, 0.1, ("pink", "brown")),
    "ice cream": Shape((drawings.ice_cream,), 15, 0.08),
    "fish": Shape((drawings.fish,), 20, 0.1),
    "bird": Shape((drawings.bird,), 10, 0.06),
    "butterfly": Shape((drawings.butterfly,), 40, 0.08),
    "ladybug": Shape((drawings.ladybug,), 180, 0.05, ("red",)),
    "ball": Shape((drawings.ball,), 180, 0),
    "balloon": Shape((drawings.balloon,), 12, 0.06),
    "umbrella": Shape((drawings.umbrella,), 20, 0.06),
    "hat": Shape((drawings.hat,), 15, 0.1),
    "key": Shape((drawings.key,), 180, 0.08, ("yellow", "gray")),
    "bell": Shape((drawings.bell,), 20, 0.06, ("yellow",)),
    "drop": Shape((drawings.drop,), 12, 0.06, ("blue",)),
    "lightning bolt": Shape((drawings.bolt,), 12, 0.08, ("yellow",)),
    "snowman": Shape((drawings.snowman,), 5, 0.06, ("white",)),
    "flag": Shape((drawings.flag,), 10, 0.1),
    "candle": Shape((drawings.candle,), 6, 0.1),
    "pencil": Shape((drawings.pencil,), 180, 0.05, ("yellow",)),
    "book": Shape((drawings.book,), 15, 0.06),
    "chair": Shape((drawings.chair,), 5, 0.08, ("brown",)),
    "table": Shape((drawings.table,), 4, 0.1, ("brown",)),
    "lamp": Shape((drawings.lamp,), 6, 0.08),
    "clock": Shape((drawings.clock,), 0, 0),
    "gift": Shape((drawings.gift,), 10, 0.08),
}
"""What is drawn, by label."""
LABELS = tuple(SHAPES)
