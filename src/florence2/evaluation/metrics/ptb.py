"""The tokens that captions are compared by: words as the Penn Treebank cuts them, lower case, without punctuation.

Equal to Stanford's PTBTokenizer with the options and the removal of punctuation of ``pycocoevalcap``, which needs Java.
The published figures of every captioner went through it, and an evaluation that cuts "don't" or "T-shirt" in another
way cannot be put beside them. Own code, fitted to what that program answers to millions of probes; a caption is read
on its own, whatever stands behind it in a file.

The rule is that of every lexer: at each place the longest match wins, then the first rule; what a rule wants to see
behind its token counts as matched, but is read again.
"""

from __future__ import annotations

import re
import unicodedata

_PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""What ``pycocoevalcap`` takes out. Brackets stay: it looks for "-LRB-" among tokens of lower case."""


def tokenize(text: str) -> list[str]:
    """ "A man's dog, isn't it?" → ["a", "man", "'s", "dog", "is", "n't", "it"]

    A token that spans a space ("1 1/2") holds a no-break space (U+00A0) in its place, as in the original.
    """
    tokens: list[str] = []
    line = text.replace("\n", " ") + "\n"
    place = 0
    while place < len(line):
        plain = _PLAIN.match(line, place)
        if plain:
            tokens.append(plain[1])
            place = plain.end()
            continue
        found = [match for match in (rule.match(line, place) for rule in _RULES) if match]
        if not found:
            place += 1
            continue
        best = max(found, key=lambda match: match.end())  # the first of the longest
        tokens.append(_written(best[1]))
        place = best.end(1)
    return [token for token in map(str.lower, tokens) if token and token not in _PUNCTUATION]


def _written(token: str) -> str:
    """As the Treebank writes it."""
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if not token.strip(". \u00a0"):
        return "..."
    if _ENDING.fullmatch(token):
        return re.sub(_AP, "'", token)
    if all(mark in _QUOTES for mark in token):
        return "".join(_QUOTES[mark] for mark in token)
    if token[:2] in ("<!", "<?"):
        return token.replace(" ", "\u00a0")
    if _ADDRESS.search(token):
        return token
    return _INSIDE.sub(lambda match: _REWRITTEN[match[0].lower()], token)


# What rules are made of

_MARKS = "".join(chr(c) for c in range(0x2C2, 0xECE) if unicodedata.category(chr(c)) in ("Mn", "Mc", "Sk"))
_LETTER = r"[^\W\d_²³¹¼-¾⁰⁴-⁹₀-₉⅐-↉①-⓿❶-➓〇〡-〩〸-〺]"
_MARKED = rf"(?:{_LETTER}|[\u00ad{_MARKS}])"
"""A letter, a mark on one, or the soft hyphen, which nobody writes out."""
_WORD = rf"{_MARKED}(?:{_MARKED}|\d)*(?:[.!?]{_MARKED}(?:{_MARKED}|\d)*)*"
_AP = "(?:['\u0092\u2019]|&apos;)"
_APS = f"(?:{_AP}|[`\u0091\u2018\u201b])"
_NUMBER = r"(?:\d*(?:[.:,\u00ad\u066b\u066c]\d+)+|\d+)"
_GAP = r"[ \u00a0-]"
_ALNUM = rf"(?:{_LETTER}|\d)"
_PART = rf"(?:[dDoOlL]{_APS}{_ALNUM})?{_ALNUM}+"
_JOINED = rf"{_PART}(?:[-_\u058a\u2010\u2011]{_PART})*"
_HYPHENED = r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+"
_BESIDE = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_NAME = r"[A-Za-z][A-Za-z0-9:._-]*"
_TAG = rf"<(?:[!?][A-Za-z-][^>\r\n]*|/?{_NAME}(?: +{_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?)* */?) *>"
_PATH = r"[^\s\"<>|()]+[^\s\"<>|()!?.,{}-]"
_HOST = r"[^\s\"<>|()!?.,{}]+"
_BOX, _MAIL_HOST = r"[^\s\"<>|(){}]*", r"[^\s\"<>|(){}.]+"


def _any(words: str) -> str:
    return "|".join(words.split())


_TITLES = _any(
    """adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen
    gov govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs pvt
    rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm"""
)
_ENDINGS = _any(
    """al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga
    inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc ppte ppty pte
    ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo ph.d ed.d"""
)
"""Abbreviations that may end a name or a sentence: what follows without a space is a word of its own."""
_STATES = _any("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
"""Abbreviations only where they are capitalised."""
_BEFORE_NUMBERS = _any("art ca figs? nos? op pp prop")
_FIRST_WORDS = _any(
    """A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr[.]
    Ms[.] Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When While
    Yet You"""
)
"""Before one of these a single letter ends a sentence."""
_SUFFIXES = _any(
    """bat bmp c cgi class cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png ppt ps py sql tar txt
    wav x xml zip"""
)
_SYMBOLS = (
    r"¡\u20a4¥-©¬®-´¶-¹¿×÷\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u207a-\u207e\u208a-\u208e"
    r"\u2100-\u214f⅕-⅞\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff65"
)

_PLAIN = re.compile(r"((?!(?:cannot|gonna|gotta|lemme|gimme|wanna)\b)[A-Za-z]+)[ \n]", re.IGNORECASE)
"""Most of a caption: words between spaces that no rule could read otherwise."""

_RULES = tuple(
    re.compile(rule)
    for rule in (
        # markup
        rf"({_TAG})",
        r"(&(?:(?i:lt|gt|amp|nbsp|mdash)|quot|apos|ndash);|&\#\d+;)",
        # words that are two
        r"((?i:can))(?i:not)",
        r"((?i:gim|lem))(?i:me)",
        r"((?i:gon|wan))(?i:na)",
        r"((?i:got))(?i:ta)",
        r"('(?i:t))(?i:is|was)",
        rf"((?i:more)){_AP}(?i:n)",
        # words before their endings, with the period before another mark, with an apostrophe inside; endings
        rf"({_WORD}){_AP}(?i:[msd]|re|ve|ll)",
        rf"([A-Za-z]*[A-MO-Za-mo-z]\u00ad*)[nN]{_APS}[tT]",
        rf"((?:{_WORD}|{_JOINED}|{_HYPHENED})\.)[,;:\u3001]",
        rf"({_WORD})",
        rf"([yY]{_AP}){_MARKED}",
        rf"([lLdDjJ]{_AP}|(?i:dunkin|somethin|ol){_AP}|{_AP}(?i:em|till?|cause|[2-9]0s))",
        rf"([A-HJ-XZn]{_APS}{_LETTER}{{2,}}|{_LETTER}+[aeiouyAEIOUY]{_APS}[aeiouA-Z]{_LETTER}*|[oO]{_APS}[oO])",
        rf"((?i:cont{_AP}d\.?|nor{_AP}easter|c{_AP}mon|e{_AP}er|s{_AP}mores|ev{_AP}ry|li{_AP}l|nat{_AP}l|cap{_AP}n))",
        rf"({_AP}(?i:[msd]|re|ve|ll))[^A-Za-z]",
        rf"({_AP}[nN]{_AP})",
        r"(')[A-Za-z]\S",
        rf"({_AP}(?i:[msd]|re|ve|ll))",
        rf"({_AP}[nN])",
        rf"([nN]{_APS}[tT])",
        rf"({_AP}\d\d)[ \n]",
        # addresses
        r"((?i:https?)://[^\s\"<>|(){}]+[^\s\"<>|()!?.,{}-])",
        rf"((?i:www)\.(?:{_HOST}\.)+[a-zA-Z]{{2,4}}(?:/{_PATH})?)",
        rf"((?:(?:[a-z#%&*+~]|[^\x00-\x7f\s])+\.)+(?i:com|net|org|edu)(?:/{_PATH})?)",
        rf"((?:&lt;|<)?[a-zA-Z0-9]{_BOX}@(?:{_MAIL_HOST}\.)*{_MAIL_HOST}(?:&gt;|>)?)",
        rf"(@[A-Za-z_][A-Za-z_0-9]*|\#{_MARKED}+)",
        # dates, numbers, fractions, telephones, amounts
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        rf"([-+]?{_NUMBER})",
        r"([⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+))",
        rf"((?:\d{{1,4}}{_GAP})?\d{{1,4}}(?:\\?/|\u2044)\d{{1,4}})",
        rf"((?:\(\d{{2,3}}\)[ \u00a0]?|\+{{0,2}}(?:\d{{2,4}}{_GAP}){{1,2}})\d{{3,4}}{_GAP}?\d{{3,5}})",
        r"(\+{0,2}(?:\d{2,4}\.){1,2}\d{3,4}\.\d{3,5})",
        r"([A-Z]*\$|\#{2,}|@{2,}|<<|>>|[cC](?:\+\+|\#)|[fF]\#)",
        # abbreviations
        rf"([A-Za-z])\.\s+(?:{_FIRST_WORDS}|{_FIRST_WORDS.upper()}|{_TAG})\s",
        r"((?:[A-Za-z]\.)+)",
        rf"((?i:{_TITLES})\.)",
        rf"((?:(?i:{_ENDINGS})|{_STATES}|{_STATES.upper()})\.)[\s\S]{{0,2}}",
        rf"((?i:{_BEFORE_NUMBERS})\.)\s?\d",
        # joined words, names of files
        r"((?i:pro|anti)-|S&P-500|S&Ls|(?i:canada|sino|korean|eu|japan|non)-(?i:u\.s))",
        rf"({_BESIDE}(?:\\?/{_BESIDE}){{1,2}})",
        rf"({_HYPHENED})",
        rf"({_JOINED})",
        r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)",
        rf"({_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:{_SUFFIXES}))[\s.!?,]",
        # marks
        r"(''|``)",
        r"([<>]?[:;=][-o*']?[()\[\]{|\\@DOPdp])[^A-Za-z0-9]",
        r"([-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\))",
        r"(-{5,}|-{2,4}|\.{3,5}|\.(?:[ \u00a0]\.){2,4}|[?!]{2,}|\*+|\\\*|_+)",
        r"([`‘’‚-‟\u0091-\u0094‹›«»]{1,2})",
        r"([\x21-\x7e])",
        r"([¢£¤€\u20a0½¼¾⅓⅔])",
        rf"([{_SYMBOLS}])",
    )
)
"""Group 1 is the token; what else a rule matches is read again."""

_QUOTES = {
    **dict.fromkeys("`‘‛‹\u0091", "`"),
    **dict.fromkeys("’›\u0092", "'"),
    **dict.fromkeys("“«\u0093", "``"),
    **dict.fromkeys("”»\u0094", "''"),
    **{mark: mark for mark in "‚„‟"},
}
_REWRITTEN = {
    **dict(zip("()[]{}", ("-LRB-", "-RRB-", "-LSB-", "-RSB-", "-LCB-", "-RCB-"), strict=True)),
    **dict(zip("¢£¤€\u20a0", ("cents", "#", "$", "$", "$"), strict=True)),
    **dict(zip("½¼¾⅓⅔", ("1/2", "1/4", "3/4", "1/3", "2/3"), strict=True)),
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": "", " ": "\u00a0", "\u00ad": ""},
    **dict.fromkeys(('"', "&quot;", "&apos;"), "''"),
    **dict.fromkeys(("---", "----", "&mdash;", "&ndash;"), "--"),
    **_QUOTES,
}
_INSIDE = re.compile(r"[()\u00ad ]|&(?:amp|lt|gt|nbsp|mdash);", re.IGNORECASE)
_ADDRESS = re.compile(r"://|^www\.|\w@", re.IGNORECASE)
_ENDING = re.compile(rf"{_AP}(?:[msd]|re|ve|ll)|n{_AP}t", re.IGNORECASE)
