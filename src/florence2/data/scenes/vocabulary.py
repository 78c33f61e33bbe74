"""What is printed: made-up words that look like English, common words, numbers, prices, dates, codes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from florence2.errors import DataError

LONGEST = 32
"""Characters of a line; longer lines of a vocabulary are printed in part, whole words of them."""


def read(path: Path) -> tuple[str, ...]:
    """The lines of a text file. Raises DataError where it is missing, no UTF-8, or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the vocabulary {path} cannot be read ({error}); give a text file in UTF-8") from error
    lines = tuple(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)
    if not lines:
        raise DataError(f"the vocabulary {path} is empty; each of its lines is printed as it is")
    return lines


def printed(lines: tuple[str, ...], rng: random.Random) -> str:
    """One line from the vocabulary, or made up where there is none."""
    if not lines:
        kinds, weights = zip(*_KINDS.items(), strict=True)
        kind: Callable[[random.Random], str] = rng.choices(kinds, weights)[0]
        return kind(rng)
    words = rng.choice(lines).split()
    while len(" ".join(words)) > LONGEST and len(words) > 1:
        words.pop(rng.choice((0, -1)))
    return " ".join(words)


# Kinds


def _made_up(rng: random.Random) -> str:
    syllables = rng.choices((1, 2, 3, 4), (2, 5, 3, 1))[0]
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)) + rng.choice(_CODAS)
    return _made_up(rng) if any(part in word for part in _UNFIT) else _cased(word, rng)


def _common(rng: random.Random) -> str:
    return _cased(rng.choice(COMMON), rng)


def _phrase(rng: random.Random) -> str:
    words = [rng.choice(COMMON) for _ in range(rng.randint(2, 3))]
    return _cased(" ".join(words), rng)


def _number(rng: random.Random) -> str:
    digits = rng.choices((1, 2, 3, 4, 5, 7), (2, 4, 4, 3, 2, 1))[0]
    value = rng.randrange(10 ** (digits - 1), 10**digits)
    return rng.choices(
        (f"{value}", f"{value:,}", f"No. {value}", f"#{value}", f"{value}%", f"{value / 10:.1f}"), (6, 1, 1, 1, 1, 1)
    )[0]


def _price(rng: random.Random) -> str:
    value = rng.randrange(1, 20000) / 100
    return rng.choice((f"${value:.2f}", f"${round(value) + 1}", f"{value:.2f}", f"{round(value) + 1}.99"))


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(1950, 2035)
    name = _MONTHS[month]
    short = (f"{name[:3]} {day}, {year}", f"{day} {name} {year}", f"{name} {year}", f"{day} {name[:3].upper()}")
    return rng.choice((*short, f"{month + 1:02}/{day:02}/{year}", f"{year}-{month + 1:02}-{day:02}", f"{year}"))


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.randrange(0, 60, 5)
    return rng.choice(
        (f"{hour}:{minute:02}", f"{hour}:{minute:02} {rng.choice(('AM', 'PM'))}", f"{hour + 11}:{minute:02}")
    )


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    number = rng.randrange(10, 10 ** rng.randint(2, 4))
    return rng.choice((f"{letters}-{number}", f"{letters}{number}", f"{letters} {number}", f"{number}{letters}"))


def _site(rng: random.Random) -> str:
    return f"{rng.choice(('www.', ''))}{rng.choice(COMMON)}{rng.choice(COMMON)}.{rng.choice(('com', 'org', 'net'))}"


_KINDS: dict[Callable[[random.Random], str], float] = {
    _made_up: 6,
    _common: 6,
    _phrase: 4,
    _number: 2.5,
    _price: 1.5,
    _date: 1.5,
    _time: 1,
    _code: 1.5,
    _site: 0.7,
}


def _cased(text: str, rng: random.Random) -> str:
    way = rng.random()
    return text.upper() if way < 0.4 else text.title() if way < 0.75 else text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words(
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sk sl sm sn sp st str th tr"
)
_VOWELS = _words("a e i o u a e i o u y ai ea ee ie oa oo ou")
_CODAS = ("", "", "", *_words("b ck d ft g l ld lt m mp n nd ng nk nt p r rd rk rn rt s sh st t th x"))
_UNFIT = ("cunt", "fag", "fuck", "nazi", "nig", "rape", "sex", "shit")  # chance writes these as well
_MONTHS = _words("January February March April May June July August September October November December")
COMMON = _words(
    """
    about above after air all always animal answer apple area art baby back bag bank bar bath beach bean bed bell
    best bike bird black blue boat book box boy bread bridge bus cafe cake camp car card care cash cat center change
    city class clean clear clock close cloud club coast coffee cold color cook cool corn corner country cross cup
    dance danger dark daily day deal desk dinner doctor dog door dream drink drive dry east easy egg end enter exit
    family farm fast field film fire first fish floor flower fly food forest free fresh friend fruit full fun game
    garden gas gate gift girl glass gold good grand grass green group hall hand happy hard harbor hat health heart
    heavy help high hill home honey horse hot hotel hour house ice idea inside island juice jump keep key kind king
    kitchen lake lamp land large last leaf left lemon letter library life light line little live local long love low
    lunch magic mail main map market master meal metal milk mill mind mint money moon morning mountain movie music
    name nature new news next night noon north nose ocean office oil old open orange order outside paint paper park
    party path peace phone photo piano pizza place plan plant play please point police pool post power price print
    private public pull push quick quiet radio rain red rent rest rice right ring river road rock room rose round
    safe sale salt sand school sea seat second shop short side sign silver sky sleep slow small smart smoke snow
    soap soft song soup south space speed sport spring square stage stamp star start station stay step stone stop
    store storm story street strong sugar summer sun sweet table tall taxi tea team tennis thank theater ticket time
    today toilet tool total town toy track train travel tree trip truck turn union up valley view village visit
    voice wait walk wall warm wash watch water way weather week welcome west wheel white wide wild wind window wine
    winter wonder wood word work world yard year yellow young zone zoo
    """
)
