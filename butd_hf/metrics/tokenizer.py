# SPDX-License-Identifier: Apache-2.0
"""Penn-Treebank-style caption tokenizer that needs no Java.

The field's caption scores are computed on the output of Stanford CoreNLP 3.4.1's `PTBTokenizer -preserveLines
-lowerCase`, from which a list of punctuation tokens is then removed (coco-caption). This is an own implementation
fitted to that program's output: at each position every rule is tried and the longest match wins, the earlier rule on a
tie, as in the original's generated lexer.

What differs from the original, which reads all captions of a data set as one text:
- line ends inside a caption (also vertical tab, form feed, U+0085, U+2028, U+2029) are spaces, so that a caption never
  spills into the next one and no token depends on the first word of the next caption;
- web addresses are recognised only where their host is made of ASCII letters and digits;
- accents written as HTML entities ("caf&eacute;") are split off their word.
"""

import re
from collections.abc import Iterable


# Tokens that coco-caption removes. The original also lists "-LRB-" and its like, but it compares them with lowercased
# tokens, so that brackets survive as "-lrb-": kept as it is, since published figures contain it.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Words written together that the Treebank counts as two, by the length of their first part.
ASSIMILATIONS = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3}

# Abbreviations that keep their period, in any case ...
_ABBREVIATIONS = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr "
    "co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen "
    "gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn "
    "mlle mme mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep "
    "reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues "
    "univ va vs vt wed wis wisc wm wyo"
)
# ... those that are common words when lowercase, and count only with a capital ...
_CAPITAL_ABBREVIATIONS = "ark az del ill la mass miss ore pa tex wash"
# ... those that are never written in capitals throughout ...
_UNSHOUTED_ABBREVIATIONS = "mfg mtg ppte ppty pte ptes pty ptys"
# ... and those that are abbreviations only before a number ("no. 5").
_NUMBERED_ABBREVIATIONS = "art ca fig figs no nos op pp prop"
# After one letter and a period these, with a capital, tell that the period ended a sentence.
_STARTS = (
    "a about according after an as at but he her here however if in it last many more now once one other our she "
    "since so some such that the their then there these they this we what when while yet you"
)

# Character classes, measured on the original: its letters include combining marks and two Unicode hyphens.
_LETTER = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0374\u0376-\u037d\u0386\u0388-\u0481\u0483-\u0487"
    "\u048a-\u0527\u0531-\u0559\u0561-\u0587\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u05d0-\u05f2\u0615-\u061a"
    "\u0620-\u065e\u066e-\u06d3\u06d5-\u06ff\u0710-\u07f3\u0800-\u0963\u0966-\u0e3e\u0e40-\u0e4e\u0e50-\u167f\u1681-\u180d"
    "\u180f-\u1fbc\u1fbe-\u1fff\u2010\u2011\u2071\u207f\u2090-\u209c\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124"
    "\u2126\u2128\u212a-\u212d\u212f-\u2139\u213c-\u213f\u2145-\u2149\u2c00-\u2dff\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u318e\u31a0-\u31ba\u31f0-\u31ff\u3400-\ud7ff\uf900-\ufdfb\ufe70-\ufefc"
    "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc"
)
_SYMBOL = (
    "\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6"
    "\u05f3\u05f4\u0606-\u060c\u061b\u061e\u061f\u066a\u066d\u06d4\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017\u201a"
    "\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106"
    "\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f"
    "\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1"
    "\uffe5\uffe6"
)
# pairs: what is read, and what is written
_REPLACEMENT_TABLE = """
( -lrb- ) -rrb- [ -lsb- ] -rsb- { -lcb- } -rcb- \u00a2 cents \u00a3 # \u0080 $ \u00a4 $ \u20a0 $ \u20ac $
\u00bc 1/4 \u00bd 1/2 \u00be 3/4 \u2153 1/3 \u2154 2/3 \u2026 ... \u0096 -- \u0097 -- \u2013 -- \u2014 -- \u2015 --
&amp; & &lt; < &gt; > " '' &quot; '' &apos; ' &mdash; -- &ndash; -- &md; --
"""
_REPLACEMENT_WORDS = _REPLACEMENT_TABLE.split()
_REPLACEMENTS = {**dict(zip(_REPLACEMENT_WORDS[::2], _REPLACEMENT_WORDS[1::2], strict=True)), "&nbsp;": ""}
_QUOTES = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}

_CLITIC_APOSTROPHES = str.maketrans("\u2019\u0092\u2018", "''`")

_L = f"[{_LETTER}]"
_LD = rf"[{_LETTER}\d]"
_APOSTROPHE = "['\u2019\u0092]"
_ANY_APOSTROPHE = "['\u2019\u0092`\u2018]"
_NT = f"n{_ANY_APOSTROPHE}t"
_WORD = rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*"
_NUMBER = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_ATTRIBUTE = r"[A-Za-z][\w:.-]*(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?"
_URL_CHARACTER = r"[^\s\"<>|(){}]"
_URL_END = r"[^\s\"<>|.!?(),;{}-]"


def _either_case(words: str, *, lower: bool = True, upper: bool = True) -> str:
    """Alternatives of the space-separated words with a capital and, where asked, all lowercase and all uppercase."""
    words = f"{words.title()} {words if lower else ''} {words.upper() if upper else ''}"
    return "|".join(sorted(set(words.split())))


_ABBREVIATION = (
    f"{_either_case(_ABBREVIATIONS)}|{_either_case(_CAPITAL_ABBREVIATIONS, lower=False)}|"
    f"{_either_case(_UNSHOUTED_ABBREVIATIONS, upper=False)}"
)
_SENTENCE_STARTS = _either_case(_STARTS, lower=False)

# Group 1 is the token; what a rule matches behind it is context, which counts for the length but is not consumed.
_WORD_RULES = [
    rf"([A-Za-z]*?[A-MO-Za-mo-z])(?i:{_NT})",  # do|n't
    rf"({_WORD}){_APOSTROPHE}(?i:s|m|d|re|ve|ll)(?![A-Za-z])",  # dog|'s
    rf"({_WORD})",
    rf"((?i:{_NT}))",
    rf"([yY]{_APOSTROPHE})(?![dmsDMS]){_L}",  # y'|all
    rf"([lLdDjJ]{_APOSTROPHE})",
    rf"((?i:dunkin|somethin|ol){_APOSTROPHE})",
    rf"([A-HJ-XZn]{_ANY_APOSTROPHE}{_L}{{2,}})",  # O'Neil
    rf"({_L}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_L}*)",  # ma'am, hallowe'en
    rf"((?i:cap{_APOSTROPHE}n|c{_APOSTROPHE}mon|e{_APOSTROPHE}er|li{_APOSTROPHE}l|ev{_APOSTROPHE}ry|nat{_APOSTROPHE}l))",
    rf"((?i:s{_APOSTROPHE}mores|nor{_APOSTROPHE}easter|cont{_APOSTROPHE}d\.))",
    rf"((?:[dDoOlL]{_APOSTROPHE}(?={_LD}{{2}}))?{_LD}+"
    rf"(?:[-_](?:[dDoOlL]{_APOSTROPHE}(?={_LD}{{2}}))?{_LD}+)*)",  # tri-colored, 4-wheel, hors-d'oeuvre
    r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})",  # black/white
    r"([A-Z]+(?:(?:\+|&amp;|&)[A-Z]+)+)",  # AT&T
    r"([A-Z]+\$|[Cc](?:\+\+|\#))",  # US$, C++
    rf"((?:Ph\.D|{_ABBREVIATION}|[A-Za-z](?:\.[A-Za-z])+)\.)",  # Mr., U.S.
    rf"([A-Za-z]\.)(?! *(?:\"|``)? *(?:{_SENTENCE_STARTS})(?: |$))",  # plan B. of, but not "plan B. The"
    r"([A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)+)",  # U.S.-based, 5.5-inch, but also "white,t-shirt"
    rf"((?:{_either_case(_NUMBERED_ABBREVIATIONS)})\.) ?\d",  # no. 5
    rf"((?:{_WORD}|{_LD}+(?:[-_]{_LD}+)*|{_NUMBER})\.)[,;:]",  # a period before a comma belongs to the word
    rf"((?i:https?)://{_URL_CHARACTER}+\.{_URL_CHARACTER}*{_URL_END})",
    rf"((?i:www)\.(?:[^\s\"<>|.!?(),;{{}}]+\.)*[A-Za-z]{{2,4}}(?:/{_URL_CHARACTER}*{_URL_END})?)",
    rf"((?:[A-Za-z][A-Za-z0-9]*\.)+(?i:com|net|org|edu)(?:/{_URL_CHARACTER}*{_URL_END})?)",
    r"([A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+)",  # a@b.org
    rf"({_NUMBER})",
    r"((?:\d{1,4}[- \u00a0])?\d{1,4}[/\u2044]\d{1,4})",  # 3 1/2
    r"((?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0]\d{3,4}[- \u00a0]?\d{3,5})",  # telephone
]
_OTHER_RULES = [
    rf"([-+]?{_NUMBER})",
    r"(\(\d{2,3}\)[ \u00a0]?\d{3,4}[- \u00a0]?\d{3,5})",  # telephone
    r"(\+{1,2}(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0]\d{3,4}[- \u00a0]?\d{3,5})",
    rf"(<(?:[!?][A-Za-z-][^>\n]*|/[A-Za-z][\w:.-]*|[A-Za-z][\w:.-]*(?: +{_ATTRIBUTE})*) */?>)",  # markup
    r"(<[A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+>?)",
    r"('(?i:s|m|d|re|ve|ll))(?![A-Za-z])",
    r"([\u2019\u0092](?i:s|m|d|re|ve|ll))",
    rf"({_APOSTROPHE}(?i:t))(?i:is|was)",  # 't|is
    rf"({_APOSTROPHE}(?i:till?|em|cause))",
    rf"({_APOSTROPHE}[nN]{_APOSTROPHE}?)(?![-\w])",
    rf"({_APOSTROPHE}[nN]{_APOSTROPHE}|[\u2019\u0092][nN])",  # rock|'n'|roll
    rf"({_APOSTROPHE}[2-9]0s)",
    rf"({_APOSTROPHE}\d\d)(?:$|(?=\s))",
    r"(&(?:(?i:amp|lt|gt|nbsp)|quot|apos|mdash|ndash|MD);)",
    r"(&(?:#\d+|HT|TL|UR|LR|QC|QL|QR|odq|cdq|[aeiouAEIOU](?:acute|grave|uml));)",
    r"(>?[:;=](?:[-o']?[)(DPpOd|@\[\]\\{])(?![A-Za-z0-9]))",  # :-)
    rf"(:3)(?!{_LD})",
    r"([-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\))",  # ^_^
    rf"(@[A-Za-z_][A-Za-z0-9_]*|\#{_L}+)",  # @name, #tag
    r"([?!]+|_+|\*+|\#+|@@+|<<|>>|-{5,}|\.{3,5}|(?i:-[lr][rsc]b-))",
    r"(-{2,4})",
    rf"([{''.join(_QUOTES)}]{{1,2}}|''|``)",
    rf"([\x21-\x7e{''.join(key for key in _REPLACEMENTS if len(key) == 1 and ord(key) > 126)}{_SYMBOL}])",
]

_COMPILED_WORD_RULES = [re.compile(rule) for rule in _WORD_RULES]
_COMPILED_OTHER_RULES = [re.compile(rule) for rule in _OTHER_RULES]
# Shortcut for the bulk of a caption: a word of ASCII letters between spaces is a token under every rule.
_PLAIN_WORD = re.compile(r" *([A-Za-z]+)(?= |$)")
_WORD_START = re.compile(rf"{_LD}")
_SPACE = re.compile(r"\s")
_DOTS_OR_DASHES = re.compile(r"\.{3,5}|-{2,4}")
_CLITIC = re.compile(rf"{_NT}|{_APOSTROPHE}(?:s|m|d|re|ve|ll)")


def tokenize(caption: str) -> list[str]:
    """Lowercase tokens of one caption, without punctuation.

    A telephone number or a mixed fraction ("3 1/2") is one token that contains a no-break space, as in the original.

    Raises:
        TypeError: when the caption is not a string.
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption must be a str, got {type(caption).__name__}: {caption!r}")
    text = _SPACE.sub(" ", caption.replace("\u00ad", ""))
    tokens: list[str] = []
    position = 0
    while position < len(text):
        plain = _PLAIN_WORD.match(text, position)
        if plain:
            _append_word(tokens, plain[1].lower())
            position = plain.end()
        elif text[position] == " ":
            position += 1
        else:
            position = _append_longest(tokens, text, position)
    return tokens


def tokenize_captions(captions: Iterable[str]) -> list[str]:
    """The captions as the other metrics take them: their tokens joined by single spaces."""
    return [" ".join(tokenize(caption)) for caption in captions]


def _append_word(tokens: list[str], word: str) -> None:
    """Appends a lowercase word, in two parts if it is one of the `ASSIMILATIONS`."""
    split = ASSIMILATIONS.get(word)
    tokens += [word] if split is None else [word[:split], word[split:]]


def _spell(token: str) -> str:
    """The token as the original writes it: its inner spaces, brackets, entities and, in clitics, apostrophes."""
    if _CLITIC.fullmatch(token):
        return token.translate(_CLITIC_APOSTROPHES)
    if token[0] != "<":
        token = token.replace("(", "-lrb-").replace(")", "-rrb-")
    return token.replace("&amp;", "&").replace(" ", "\u00a0")


def _append_longest(tokens: list[str], text: str, position: int) -> int:
    """Appends the token that starts at `position`, if any is left of it, and returns where the next one starts."""
    rules = _COMPILED_WORD_RULES if _WORD_START.match(text, position) else _COMPILED_OTHER_RULES
    matches = [match for rule in rules if (match := rule.match(text, position))]
    longest = max(matches, key=re.Match.end, default=None)  # the first of equally long ones
    if longest is None:  # emoji and other characters unknown to the original are dropped
        return position + 1
    token = longest[1].lower()
    if all(character in _QUOTES for character in token):
        token = "".join(_QUOTES[character] for character in token)
    elif token in _REPLACEMENTS:
        token = _REPLACEMENTS[token]
    else:
        token = _spell(token)
    if not token or token in PUNCTUATION or _DOTS_OR_DASHES.fullmatch(token):
        return longest.end(1)
    if longest.end() == longest.end(1):
        _append_word(tokens, token)
    else:  # before a clitic the original leaves the assimilations whole: "gonna|'s"
        tokens.append(token)
    return longest.end(1)
