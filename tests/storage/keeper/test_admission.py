"""Tests of L{meshkit.storage.keeper.admission}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.interfaces import IAdmission
from meshkit.storage.keeper.admission import AllowList, Everybody, admission_of
from meshkit.storage.keeper.capacity import ALLOW_LIST, KeeperConfig
from tests.storage.keeper.keepers import ALICE, BOB


class AdmissionTests(SynchronousTestCase):
    def test_they_can_be_asked(self) -> None:
        for each in (Everybody(), AllowList([ALICE])):
            verifyObject(IAdmission, each)

    def test_everybody_is_admitted_by_default(self) -> None:
        self.assertTrue(admission_of(KeeperConfig()).admits(ALICE))

    def test_a_list_admits_those_whom_it_names(self) -> None:
        admission = admission_of(KeeperConfig(admission=ALLOW_LIST, allow=(ALICE,)))
        self.assertEqual((admission.admits(ALICE), admission.admits(BOB)), (True, False))
        self.assertFalse(admission_of(KeeperConfig(admission=ALLOW_LIST)).admits(ALICE))
