"""For whom a storage peer keeps shares, and whether it takes any at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import maybeDeferred
from zope.interface import implementer

from meshkit.errors import NotReady, StorageDraining, StorageRefused
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IAdmission
from meshkit.storage.keeper.capacity import ALLOW_LIST, KeeperConfig

__all__ = ["AllowList", "Everybody", "Reception", "admission_of"]


@implementer(IAdmission)
class Everybody:
    """Whoever knows the network."""

    def admits(self, key: PublicKey) -> bool:
        return True


@implementer(IAdmission)
class AllowList:
    """Those who are named, and nobody else."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys = frozenset(keys)

    def admits(self, key: PublicKey) -> bool:
        return key in self._keys


def admission_of(config: KeeperConfig) -> Any:
    """@return: L{IAdmission}, as the configuration says."""
    return AllowList(config.allow) if config.admission == ALLOW_LIST else Everybody()


class Reception:
    """
    What is asked before anything is done for a caller.

    @ivar open: it was started, and not stopped.
    @ivar draining: nothing new is taken.
    """

    def __init__(self, config: KeeperConfig, admission: Any = None) -> None:
        """@param admission: L{IAdmission}, in place of what the configuration says."""
        self.open = False
        self.draining = False
        self._own = admission
        self._admission = admission_of(config) if admission is None else admission

    def configure(self, config: KeeperConfig) -> None:
        """Somebody else is admitted from now on."""
        if self._own is None:
            self._admission = admission_of(config)

    def check_open(self) -> None:
        """@raise NotReady: if nobody is served."""
        if not self.open:
            raise NotReady("the storage peer is starting or stopping: try again in a moment")

    def check_takes(self) -> None:
        """@raise StorageDraining: if nothing new is taken."""
        if self.draining:
            raise StorageDraining("this storage peer takes nothing new: take another one")

    async def check_admitted(self, caller: PublicKey) -> None:
        """@raise StorageRefused: if nothing is kept for this caller."""
        if not await maybeDeferred(self._admission.admits, caller):
            raise StorageRefused("this storage peer keeps nothing for this key: ask its operator")
