"""The Treebank's tokens: a table of cases, and Stanford's own program where Java and pycocoevalcap are at hand."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from florence2.evaluation.metrics import ptb

# What PTBTokenizer gives, punctuation taken out as pycocoevalcap does.
CASES = {
    "A man's dog, isn't it?": "a man 's dog is n't it",
    "He said \"hello world\" and 'goodbye' to Mr. Smith.": "he said hello world and goodbye to mr. smith",
    "A well-known blue-and-white T-shirt.": "a well-known blue-and-white t-shirt",
    "dogs... and cats.... or.. this. . .": "dogs and cats or this",
    "I can't, won't, cannot; they're gonna, gotta.": "i ca n't wo n't can not they 're gon na got ta",
    "It costs $5.50, £3 or 5¢ (50% off)!": "it costs $ 5.50 # 3 or 5 cents -lrb- 50 % off -rrb-",
    "100,000 people at 5:30 p.m. on 12/25/2010": "100,000 people at 5:30 p.m. on 12/25/2010",
    "In the '80s and the 1980's, a 10-year-old": "in the '80s and the 1980 's a 10-year-old",
    "a 1/2 cup, ½ a cup, 3rd and 21st": "a 1/2 cup 1/2 a cup 3rd and 21st",
    "1 1/2 cups, call (555) 555-1234": "1\u00a01/2 cups call -lrb-555-rrb-\u00a0555-1234",
    "etc. and so on, e.g. this, i.e. that. The end": "etc. and so on e.g. this i.e. that the end",
    "the U.S. flag, the U.S.": "the u.s. flag the u.s.",
    "vitamin C. The bottle, vitamin c. on it": "vitamin c the bottle vitamin c. on it",
    "No. 5 on a sign that says no. Then": "no. 5 on a sign that says no then",
    "St. John lives on Main St. near the Co.": "st. john lives on main st. near the co.",
    "AT&T and R&B and salt & pepper, this/that": "at&t and r&b and salt & pepper this/that",
    "rock 'n' roll, rock'n'roll, y'all, o'clock, ma'am": "rock 'n' roll rock 'n' roll y' all o'clock ma'am",
    "O'Brien’s “curly” ‘quotes’ don’t": "o'brien 's curly quotes do n't",
    "em—dash, en – dash, two -- hyphens, ----- five": "em dash en dash two hyphens ----- five",
    "stop!stop, what?! really!!!": "stop!stop what ?! really !!!",
    "www.example.com, http://a.org/b?c=d and me@example.com": "www.example.com http://a.org/b?c=d and me@example.com",
    "#hashtag @user <b>bold</b> &amp; :) ^_^": "#hashtag @user <b> bold </b> & :-rrb- ^_^",
    "word., word.; word.! a_b __ x*y **": "word. word. word a_b __ x * y **",
    "[big] {huge} cat\ttwo  spaces": "-lsb- big -rsb- -lcb- huge -rcb- cat two spaces",
    "café naïve Zürich 日本語 привет 😀 20°C": "café naïve zürich 日本語 привет 20 ° c",
    "two\nlines": "two lines",
    "'tis more'n this": "'t is more 'n this",
    "": "",
    " . ": "",
}


@pytest.mark.parametrize(("text", "tokens"), CASES.items())
def test_cases(text: str, tokens: str) -> None:
    assert " ".join(ptb.tokenize(text)) == tokens


def test_any_text_has_tokens_without_spaces() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x2FFF)])) for _ in range(20))
        assert all(token and not {" ", "\n"} & set(token) for token in ptb.tokenize(text)), text


@pytest.fixture(scope="session")
def stanford() -> Callable[[list[str]], list[str]]:
    """PTBTokenizer as pycocoevalcap runs it, every caption on its own: the line behind it decides nothing."""
    found = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pip install pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("PTBTokenizer needs Java, and there is none on the path")

    def tokenize(texts: list[str]) -> list[str]:
        lines = [line for text in texts for line in (text, "and")]
        documents = {number: [{"caption": line}] for number, line in enumerate(lines)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LC_ALL", "C.UTF-8")  # by which Java writes
            tokens = found.PTBTokenizer().tokenize(documents)
        return [tokens[number][0] for number in range(0, len(lines), 2)]

    return tokenize


def differing(texts: list[str], stanford: Callable[[list[str]], list[str]]) -> list[tuple[str, str, str]]:
    ours = [" ".join(ptb.tokenize(text)) for text in texts]
    return [case for case in zip(texts, stanford(texts), ours, strict=True) if case[1].split() != case[2].split()]


@pytest.mark.slow
def test_cases_are_what_stanford_gives(stanford: Callable[[list[str]], list[str]]) -> None:
    assert differing(list(CASES), stanford) == []


@pytest.mark.slow
def test_equal_on_captions(stanford: Callable[[list[str]], list[str]], shared: Path) -> None:
    """All captions, questions and texts of the training packs."""
    texts = []
    for pack in sorted((shared / "data" / "train").glob("*.tar")):
        with tarfile.open(pack) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(".json") else None
                if content is not None:
                    record = json.load(content)
                    texts += record.get("captions", [])
                    texts += [asked["question"] for asked in record.get("qa", [])]
                    texts += [region["text"] for region in record.get("text", [])]
    assert len(texts) > 5000
    assert differing(texts, stanford) == []


PIECES = """a man's dog isn't the U.S. etc. Mr. A T-shirt 5 10 1,000 3.5 1/2 2nd 1980s '80s can't cannot won't it's He
o'clock rock'n'roll O'Brien blue-and-white e.g. i.e. no. No. St. v. The and/or AT&T 50% $5 £3.50 #1 @me foo.com
www.a.org http://a.com/b me@a.com café é ½ — – … “ ” ’ ‘ ' " ( ) [ ] { } < > / \\ - -- ----- , . ; : ! ? !! * + = ~
^ _ | & # @ $ % ` 12/25/2010 5:30pm 555-1234 :) ;-) <b> </b> &amp; C++ C# R&B 3° 5'10" 90's D'Angelo ma'am y'all c'mon
'em 'til x-ray 10-year-old U.S.-based p.m. Dr. Smith's boys' I'd gonna gotta 'tis Ph.D. N.Y.C. a.txt IMG_1234.JPG
日本 • ° ™"""


def composed(count: int, seed: int) -> list[str]:
    """Sentences of pieces, some of them run together."""
    rng, pieces = random.Random(seed), PIECES.split()

    def word() -> str:
        return "".join(rng.choice(pieces) for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))))

    return [" ".join(word() for _ in range(rng.randrange(1, 8))) for _ in range(count)]


@pytest.mark.slow
def test_equal_on_sentences_of_hard_pieces(stanford: Callable[[list[str]], list[str]]) -> None:
    found = differing(composed(20000, seed=0), stanford)
    assert found == []


@pytest.mark.slow
def test_a_missing_rule_is_noticed(stanford: Callable[[list[str]], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = composed(2000, seed=1)
    for example in ("isn't", "C++", "ma'am", "1/2", "T-shirt", "U.S."):
        rules = [
            rule for rule in ptb._RULES if not (match := rule.match(f"{example} \n")) or match.end() < len(example)
        ]
        assert len(rules) < len(ptb._RULES)
        monkeypatch.setattr(ptb, "_RULES", rules)
        assert len(differing(texts, stanford)) > 10, example
        monkeypatch.undo()
