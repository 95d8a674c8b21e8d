"""
The words of a message, and the words of a search for them.  Pure.

SQLite's tokenizer C{unicode61} finds words by the spaces and signs between letters, folds
their case and drops accents.  Chinese, Japanese, Thai and their like write no spaces, so a
sentence would be one word that nobody types.  L{indexed_text} parts such letters from one
another with a character that is seen nowhere, so that each is a word; L{parse_query} does
the same to what is looked for, and makes a phrase of it.  So C{東京} is found in
C{私は東京に住む}.

A search, as people type it::

    grey heron          both words, in any order
    "grey heron"        the two together
    heron OR egret      one of them; of "a b OR c" it is a and (b or c)
    -owl  -"barn owl"   not this
    her*                words that begin so

All else is text: C{c++} looks for C{c}, C{body:heron} for C{body heron}, and no text is an
error of syntax.
"""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import define, field

from meshkit.errors import InvalidRequest
from meshkit.feed.message import content_text

#: Terms of a search beyond these are refused: words, phrases, beginnings.
MAX_SEARCH_WORDS: Final = 32
#: Words inside all phrases together; a letter of a script without spaces is one.
MAX_SEARCH_TOKENS: Final = 128
#: A beginning of a word has at least so many letters, or it would be half of all words.
MIN_PREFIX: Final = 2

#: Parts letters, is shown nowhere, and is not kept in what is shown.
BREAK: Final = "\u200b"

# Scripts that are written without spaces: Thai, Lao, Myanmar, Khmer, kana, Han; and Hangul,
# where particles are joined to words.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_ANY_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
_BETWEEN: Final = re.compile(rf"(?<=[{_UNSPACED}])(?=\w)|(?<=[^\W{_UNSPACED}])(?=[{_UNSPACED}])")

_WORD: Final = re.compile(r"[^\W_]+")
# An exclusion mark, and a phrase or a word.  A phrase that nobody closed goes to the end.
_TERM: Final = re.compile(r'(-*)(?:"([^"]*)(?:"|$)|([^\s"]+))')


def part_letters(text: str) -> str:
    """Put L{BREAK} between letters of scripts without spaces, and beside them."""
    if text.isascii() or not _ANY_UNSPACED.search(text):
        return text
    return _BETWEEN.sub(BREAK, text)


def indexed_text(content: Any) -> str:
    """
    What the search index is given of a message.

    @param content: L{meshkit.feed.message.Message.content}.
    """
    return part_letters(content_text(content))


@define
class _Terms:
    """@ivar groups: of each, one term has to occur.  @ivar without: none of these may."""

    groups: list[list[str]] = field(factory=list)
    without: list[str] = field(factory=list)
    count: int = 0
    tokens: int = 0

    def quoted(self, text: str, prefix: bool = False) -> str | None:
        """A term as FTS5 writes it; L{None} if no word is in it."""
        text = part_letters(text)
        words = _WORD.findall(text)
        if not words:
            return None
        # A letter of a script without spaces is a whole word already.
        prefix = prefix and not _ANY_UNSPACED.match(words[-1][-1])
        if prefix and len(words[-1]) < MIN_PREFIX:
            raise InvalidRequest(
                f"q: {words[-1]}* has fewer than {MIN_PREFIX} letters before the star: "
                f"give more of the word",
                field="q",
            )
        self.count += 1
        self.tokens += len(words)
        return f'"{text}"{" *" if prefix else ""}'


def parse_query(text: str) -> str:
    """
    Turn what a person typed into an FTS5 expression that cannot be an error.

    @raise InvalidRequest: if there is no word in it to look for, if there are more than
        L{MAX_SEARCH_WORDS} terms or L{MAX_SEARCH_TOKENS} words, or if a beginning is
        shorter than L{MIN_PREFIX}.
    """
    found = _Terms()
    # The last group, if the next term may join it, and whether it shall.
    group: list[str] | None = None
    joins = False
    # SQLite takes a NUL for the end of the expression.
    for minus, phrase, word in _TERM.findall(text.replace("\0", " ")):
        if word == "OR" and not minus and group is not None and not joins:
            joins = True
            continue
        bare = word.rstrip("*")
        term = found.quoted(phrase or bare, prefix=bare != word)
        if term is None:
            continue
        if minus:
            found.without.append(term)
            group, joins = None, False
        elif joins and group is not None:
            group.append(term)
            joins = False
        else:
            group = [term]
            found.groups.append(group)
    if not found.groups:
        raise InvalidRequest(
            f"q={text[:80]!r} has no word to look for"
            + (": add one to what is excluded" if found.without else ""),
            field="q",
        )
    if found.count > MAX_SEARCH_WORDS or found.tokens > MAX_SEARCH_TOKENS:
        raise InvalidRequest(
            f"q has {found.count} terms with {found.tokens} words in all: "
            f"{MAX_SEARCH_WORDS} terms and {MAX_SEARCH_TOKENS} words are the limits",
            field="q",
        )
    wanted = " AND ".join(
        group[0] if len(group) == 1 else f"({' OR '.join(group)})" for group in found.groups
    )
    if not found.without:
        return wanted
    return " NOT ".join([f"({wanted})", *found.without])
