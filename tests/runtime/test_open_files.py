"""The limit on open files: it is raised as far as that goes, and the truth is told of it."""

from __future__ import annotations

import resource

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime import open_files
from meshkit.runtime.open_files import allow_files

SELECTS = SelectReactor.__new__(SelectReactor)
ANY = resource.RLIM_INFINITY


class System:
    """The limits of a process; beyond C{most} the system does not go, and does not tell."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = ANY

    def __init__(self, soft: int, hard: int, most: int) -> None:
        self.limits = soft, hard
        self.most = most

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == self.RLIMIT_NOFILE
        assert limits[1] == self.limits[1], "the hard limit is not ours to change"
        if limits[0] > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


class DescriptorTests(SynchronousTestCase):
    def allowed(
        self, soft: int, hard: int, wanted: int, reactor: object = None, most: int = 10**6
    ) -> tuple[int, int]:
        """What is allowed then, and the soft limit afterwards."""
        system = System(soft, hard, most)
        patch = self.patch(open_files, "resource", system)
        allowed = allow_files(reactor, wanted)
        patch.restore()
        return allowed, system.limits[0]

    def test_the_soft_limit_is_raised_as_far_as_the_hard_one(self) -> None:
        self.assertEqual(self.allowed(256, 1000, 900), (900, 900))
        self.assertEqual(self.allowed(256, 1000, 2000), (1000, 1000))
        self.assertEqual(self.allowed(256, ANY, 2000), (2000, 2000))

    def test_it_is_never_lowered(self) -> None:
        self.assertEqual(self.allowed(900, 1000, 300), (900, 900))
        self.assertEqual(self.allowed(ANY, ANY, 300), (300, ANY))

    def test_if_the_system_does_not_let_it_be_raised_it_stays(self) -> None:
        self.assertEqual(self.allowed(256, ANY, 2000, most=1000), (256, 256))

    def test_a_reactor_that_selects_gets_no_more_than_it_can_wait_for(self) -> None:
        self.assertEqual(self.allowed(256, 3000, 2000, SELECTS), (1024, 1024))
        self.assertEqual(self.allowed(2500, 3000, 2000, SELECTS), (1024, 2500))
