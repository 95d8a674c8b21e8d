"""Tests of L{meshkit.feed.words}."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest
from meshkit.feed.message import content_text
from meshkit.feed.words import (
    BREAK,
    MAX_SEARCH_TOKENS,
    MAX_SEARCH_WORDS,
    indexed_text,
    parse_query,
    part_letters,
)


def matches(query: str, *texts: str) -> list[int]:
    """Which of some texts a search finds, as the store would."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5 (body, content = '')")
        connection.executemany(
            "INSERT INTO t (rowid, body) VALUES (?, ?)",
            [(number, indexed_text(text)) for number, text in enumerate(texts)],
        )
        rows = connection.execute(
            "SELECT rowid FROM t WHERE t MATCH ? ORDER BY rowid", (parse_query(query),)
        )
        return [number for (number,) in rows]


class Syntax(SynchronousTestCase):
    def test_what_becomes_of_a_query(self) -> None:
        for query, expression in (
            ("grey heron", '"grey" AND "heron"'),
            ('"grey heron" owl', '"grey heron" AND "owl"'),
            ('waits "grey heron', '"waits" AND "grey heron"'),
            ("a b OR c d", '"a" AND ("b" OR "c") AND "d"'),
            ("a OR b OR c", '("a" OR "b" OR "c")'),
            ("heron -owl", '("heron") NOT "owl"'),
            ('-"barn owl" heron -owl', '("heron") NOT "barn owl" NOT "owl"'),
            ("her*", '"her" *'),
            ("her** -ow*", '("her" *) NOT "ow" *'),
            ("grey OR her*", '("grey" OR "her" *)'),
        ):
            with self.subTest(query=query):
                self.assertEqual(parse_query(query), expression)

    def test_what_is_not_our_syntax_is_text(self) -> None:
        for query, expression in (
            ("or", '"or"'),
            ("OR", '"OR"'),
            ("OR a", '"OR" AND "a"'),
            ("a OR", '"a"'),
            ("a OR OR b", '("a" OR "OR") AND "b"'),
            ("a OR -b c", '("a" AND "c") NOT "b"'),
            ("AND NOT NEAR", '"AND" AND "NOT" AND "NEAR"'),
            ("body:heron", '"body:heron"'),
            ("{body}:heron ^x", '"{body}:heron" AND "^x"'),
            ("foo-bar", '"foo-bar"'),
            ("he*ron", '"he*ron"'),
            ("a - b", '"a" AND "b"'),
            ("a\0b", '"a" AND "b"'),
            ('a"b c"d', '"a" AND "b c" AND "d"'),
        ):
            with self.subTest(query=query):
                self.assertEqual(parse_query(query), expression)

    def test_what_has_no_word_is_refused(self) -> None:
        for query in ("", " ", '"', '""', "* + -", '" " "', "\0", "_", "-heron", "-a -b"):
            with self.subTest(query=query):
                error = self.assertRaises(InvalidRequest, parse_query, query)
                self.assertEqual(error.details, {"field": "q"})

    def test_who_only_excludes_is_told_what_is_missing(self) -> None:
        error = self.assertRaises(InvalidRequest, parse_query, "-heron")
        self.assertIn("add one to what is excluded", str(error))

    def test_the_number_of_terms_is_limited(self) -> None:
        most = MAX_SEARCH_WORDS
        parse_query("a " * most)
        parse_query("a " + "-b " * (most - 1))
        for query in ("a " * (most + 1), "a " + "-b " * most, "a" + " OR a" * most):
            self.assertRaises(InvalidRequest, parse_query, query)

    def test_the_number_of_words_in_phrases_is_limited(self) -> None:
        most = MAX_SEARCH_TOKENS
        parse_query('"' + "ab " * most + '"')
        parse_query("東" * most)
        self.assertRaises(InvalidRequest, parse_query, '"' + "ab " * (most + 1) + '"')
        self.assertRaises(InvalidRequest, parse_query, "東" * (most + 1))

    def test_a_beginning_has_letters_enough(self) -> None:
        parse_query("he*")
        for query in ("h*", "grey-h*", "-h* grey"):
            error = self.assertRaises(InvalidRequest, parse_query, query)
            self.assertIn("h*", str(error))

    @given(st.text(max_size=60) | st.text(alphabet='ab東"*- \n^:(){}+ORANDTENO\0', max_size=40))
    def test_no_text_is_an_error_of_sqlite(self, query: str) -> None:
        try:
            matches(query, "a b")
        except InvalidRequest as e:
            self.assertEqual(e.details, {"field": "q"})


WORDS = ("ant", "antler", "bee", "owl")
one_word = st.sampled_from(WORDS)
terms = st.one_of(
    one_word.map(lambda word: ("word", word)),
    st.lists(one_word, min_size=1, max_size=3).map(lambda words: ("phrase", " ".join(words))),
    st.sampled_from(["an", "ant", "be"]).map(lambda word: ("prefix", word)),
)


def spelled(term: tuple[str, str]) -> str:
    kind, text = term
    return {"word": text, "phrase": f'"{text}"', "prefix": f"{text}*"}[kind]


def occurs(term: tuple[str, str], text: str) -> bool:
    kind, wanted = term
    if kind == "prefix":
        return any(word.startswith(wanted) for word in text.split())
    return f" {wanted} " in f" {text} "


@st.composite
def queries(draw: Any) -> tuple[str, list[list[Any]], list[Any]]:
    """A query, and what it means: groups of which one term has to occur, and exclusions."""
    groups = draw(st.lists(st.lists(terms, min_size=1, max_size=3), min_size=1, max_size=3))
    without = draw(st.lists(terms, max_size=2))
    parts = [" OR ".join(map(spelled, group)) for group in groups]
    parts += [f"-{spelled(term)}" for term in without]
    # In any order, but such that no word OR comes beside another group's.
    return " ".join(draw(st.permutations(parts))), groups, without


class Meaning(SynchronousTestCase):
    @given(queries(), st.lists(st.lists(one_word, max_size=6).map(" ".join), max_size=8))
    def test_a_query_finds_what_it_says(
        self, query: tuple[str, list[list[Any]], list[Any]], texts: list[str]
    ) -> None:
        text, groups, without = query
        expected = [
            number
            for number, it in enumerate(texts)
            if all(any(occurs(term, it) for term in group) for group in groups)
            and not any(occurs(term, it) for term in without)
        ]
        self.assertEqual(matches(text, *texts), expected)

    def test_case_and_accents_do_not_matter(self) -> None:
        self.assertEqual(matches("HERON café", "Heron CAFE", "héron Café"), [0, 1])

    def test_a_word_is_found_in_a_script_without_spaces(self) -> None:
        texts = ("私は東京に住む", "東の京", "東京タワー2024", "สวัสดีชาวโลก", "서울에서 만나요")
        self.assertEqual(matches("東京", *texts), [0, 2])
        self.assertEqual(matches("東 京", *texts), [0, 1, 2])
        self.assertEqual(matches("タワー", *texts), [2])
        self.assertEqual(matches("東京タワー2024", *texts), [2])
        self.assertEqual(matches("20*", *texts), [2])
        self.assertEqual(matches("東京*", *texts), [0, 2])
        self.assertEqual(matches("東京 -タワー", *texts), [0])
        self.assertEqual(matches("ชาวโลก", *texts), [3])
        self.assertEqual(matches("서울", *texts), [4])

    def test_letters_beyond_the_first_plane_are_parted_too(self) -> None:
        self.assertEqual(matches("\U00020001", "\U00020000\U00020001\U00020002"), [0])


class Parting(SynchronousTestCase):
    def test_letters_of_such_scripts_are_parted_and_others_are_not(self) -> None:
        self.assertEqual(part_letters("grey heron, né"), "grey heron, né")
        self.assertEqual(
            part_letters("ab東京cd 京。x"),
            f"ab{BREAK}東{BREAK}京{BREAK}cd 京。x",
        )

    @given(st.text())
    def test_nothing_else_changes(self, text: str) -> None:
        self.assertEqual(part_letters(text).replace(BREAK, ""), text.replace(BREAK, ""))

    def test_what_is_indexed_are_the_strings(self) -> None:
        content = {"type": "note", "n": 1, "list": ["東京", {"deep": "b"}]}
        self.assertEqual(content_text(content), "note\n東京\nb")
        self.assertEqual(indexed_text(content), f"note\n東{BREAK}京\nb")
