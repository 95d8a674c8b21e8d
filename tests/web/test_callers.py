from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest
from meshkit.operations import Nothing, Operation, Permission
from meshkit.web.callers import ANYONE, OWNER, Caller, Scope


def operation(name: str, permission: Permission, public: bool = False) -> Operation:
    method = "GET" if permission == "read" else "POST"
    return Operation(  # type: ignore[call-overload,no-any-return,unused-ignore]
        name, method, "/v1/x", Nothing, None, "", permission=permission, public=public
    )


READ = operation("feed_search", "read")
WRITE = operation("feed_publish", "write")
ADMIN = operation("peers_add", "admin")


class ScopeTests(SynchronousTestCase):
    def test_a_permission_includes_the_lower_ones(self) -> None:
        for text, may in (("read", (1, 0, 0)), ("write", (1, 1, 0)), ("admin", (1, 1, 1))):
            caller = Caller("x", (Scope.parse(text),))
            found = tuple(int(caller.may(each)) for each in (READ, WRITE, ADMIN))
            self.assertEqual(found, may, text)

    def test_a_scope_may_be_for_one_operation_or_for_names_that_begin_alike(self) -> None:
        for text, may in (
            ("write:feed_publish", (0, 1, 0)),
            ("read:feed_*", (1, 0, 0)),
            ("admin:feed_*", (1, 1, 0)),
            ("write:feed", (0, 0, 0)),
        ):
            caller = Caller("x", (Scope.parse(text),))
            found = tuple(int(caller.may(each)) for each in (READ, WRITE, ADMIN))
            self.assertEqual(found, may, text)

    def test_any_scope_of_a_caller_is_enough(self) -> None:
        caller = Caller("x", (Scope.parse("read"), Scope.parse("admin:peers_add")))
        self.assertTrue(caller.may(ADMIN) and caller.may(READ))
        self.assertFalse(caller.may(WRITE))

    def test_who_has_no_scope_may_use_what_is_public_only(self) -> None:
        self.assertFalse(ANYONE.may(READ))
        self.assertTrue(ANYONE.may(operation("node_health", "read", public=True)))
        self.assertTrue(OWNER.may(ADMIN))

    def test_what_is_granted_is_for_everybody_who_has_a_token(self) -> None:
        granted = Operation("all", "GET", "/v1/all", Nothing, None, "", granted=True)
        self.assertTrue(Caller("x", (Scope.parse("write:feed_publish"),)).may(granted))
        self.assertTrue(OWNER.may(granted))
        self.assertFalse(ANYONE.may(granted))

    def test_a_scope_is_written_as_it_was_read(self) -> None:
        for text in ("read", "write:feed_*", "admin:peers_add"):
            self.assertEqual(Scope.parse(text).text, text)

    def test_what_is_no_scope_is_refused(self) -> None:
        for text in (
            "",
            "all",
            "read:",
            "read:*",
            "read:Feed",
            "write:a**",
            "read,write",
            "read\n",
        ):
            with self.assertRaises(InvalidRequest, msg=text):
                Scope.parse(text)


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
PERMISSIONS: st.SearchStrategy[Permission] = st.sampled_from(["read", "write", "admin"])
SCOPES = st.builds(
    lambda permission, name, star: Scope(permission, name and name + star),
    PERMISSIONS,
    st.none() | NAMES,
    st.sampled_from(["", "*"]),
)


class ScopePropertyTests(SynchronousTestCase):
    @given(SCOPES)
    def test_a_scope_is_read_as_it_is_written(self, scope: Scope) -> None:
        self.assertEqual(Scope.parse(scope.text), scope)

    @given(SCOPES, NAMES, PERMISSIONS)
    def test_what_a_scope_covers(self, scope: Scope, name: str, permission: Permission) -> None:
        ranks = ["read", "write", "admin"]
        high_enough = ranks.index(scope.permission) >= ranks.index(permission)
        names = scope.names or "*"
        named = name.startswith(names[:-1]) if names[-1] == "*" else name == names
        self.assertEqual(scope.covers(operation(name, permission)), high_enough and named)

    @given(st.lists(SCOPES, max_size=4), SCOPES, NAMES, PERMISSIONS)
    def test_a_further_scope_takes_nothing_away(
        self, scopes: list[Scope], more: Scope, name: str, permission: Permission
    ) -> None:
        wanted = operation(name, permission)
        if Caller("x", tuple(scopes)).may(wanted):
            self.assertTrue(Caller("x", (*scopes, more)).may(wanted))


class StandingTests(SynchronousTestCase):
    """A caller is over when its token is good for nothing any more."""

    def setUp(self) -> None:
        self.caller = Caller("x", (Scope("admin"),))
        self.told: list[str] = []

    def test_who_watches_is_told_once_and_in_order(self) -> None:
        for name in ("a", "b", "c"):
            self.caller.watch(lambda name=name: self.told.append(name))
        self.assertFalse(self.caller.over)
        self.caller.end()
        self.caller.end()
        self.assertEqual(self.told, ["a", "b", "c"])
        self.assertTrue(self.caller.over)

    def test_who_has_stopped_watching_is_not(self) -> None:
        told = self.told
        self.caller.watch(lambda: told.append("a"))
        stop = self.caller.watch(lambda: told.append("b"))
        # One that is told stops another.
        stop_last: list[Any] = []
        self.caller.watch(lambda: stop_last[0]())
        stop_last.append(self.caller.watch(lambda: told.append("d")))
        stop()
        stop()
        self.caller.end()
        self.assertEqual(told, ["a"])
        stop()

    def test_who_comes_too_late_is_told_at_once(self) -> None:
        self.caller.end()
        self.caller.watch(lambda: self.told.append("a"))()
        self.assertEqual(self.told, ["a"])

    def test_one_that_fails_does_not_keep_it_from_the_others(self) -> None:
        self.caller.watch(lambda: 1 // 0)
        self.caller.watch(lambda: self.told.append("b"))
        self.caller.end()
        self.assertEqual(self.told, ["b"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_two_are_never_the_same(self) -> None:
        self.assertNotEqual(self.caller, Caller("x", (Scope("admin"),)))
        self.assertNotIn("watchers", repr(self.caller))
