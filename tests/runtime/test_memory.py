"""Memory that was freed, and the C library."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.memory import HEAPS, KEPT, LARGEST, keep_freed_memory


class Library:
    """A C library that remembers what it was told."""

    def __init__(self, answer: int = 1) -> None:
        self.told: list[tuple[int, int]] = []
        self.answer = answer

    def mallopt(self, name: int, value: int) -> int:
        self.told.append((name, value))
        return self.answer


class KeepFreedMemory(SynchronousTestCase):
    def test_all_limits_are_set(self) -> None:
        library = Library()
        self.assertTrue(keep_freed_memory(library))
        self.assertEqual(library.told, [(-8, HEAPS), (-3, LARGEST), (-1, KEPT)])

    def test_a_library_that_refuses_is_told_of(self) -> None:
        self.assertFalse(keep_freed_memory(Library(answer=0)))

    def test_a_library_that_has_no_such_setting_is_left_alone(self) -> None:
        self.assertFalse(keep_freed_memory(object()))
