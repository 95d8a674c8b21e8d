"""
UPnP, by the C library miniupnpc (extra C{upnp}).

It waits for the network, so it is asked in a thread; for as long as a router takes that does not
answer, nothing else is to wait behind it, so that thread is one of our own.

What is asked there cannot be called back, and some routers know no mapping that ends.  So the
thread itself notes what it has added, and takes it away at the stop, also what nobody waits for any
more.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from ipaddress import IPv4Address
from random import Random
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import MappingFailed
from meshkit.mapping.values import Granted, outside
from meshkit.runtime.workers import WorkerFactory, Workers

#: Milliseconds in which routers answer who are looked for by multicast.
_DISCOVER_MS: Final = 2_000

#: What the router's list of mappings shows to its owner.
_DESCRIPTION: Final = "meshkit"

#: Ports of the router that are tried in turn when the one we would like is somebody else's.
_TRIES: Final = 5
_PORTS: Final = (20_000, 60_000)

# What routers say (WANIPConnection:1, AddPortMapping).
_TAKEN: Final = "ConflictInMappingEntry"
_FOR_EVER_ONLY: Final = "OnlyPermanentLeasesSupported"


def load() -> Any:
    """
    @return: the module C{miniupnpc}.
    @raise ImportError: it is not installed.
    """
    return import_module("miniupnpc")


class Upnp:
    """See the module."""

    name = "upnp"
    finds_router = True
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        rng: Random,
        make_workers: WorkerFactory,
        load: Callable[[], Any] = load,
    ) -> None:
        """
        @param make_workers: makes the thread.
        @param load: gives C{miniupnpc}.
        """
        self._rng = rng
        self._load = load
        self._workers: Workers = make_workers(reactor, 1, name="meshkit-upnp")
        self._started = False
        # Read by the thread: it is to add nothing more.
        self._stopping = False
        # Of the thread alone: the router's ports that were added there, and where.
        self._added: dict[int, Any] = {}
        # The router that was found last, as the library knows it; used in the thread alone.
        self._found: Any = None

    async def map(
        self, router: IPv4Address | None, port: int, wanted: int, lifetime: int
    ) -> Granted:
        others = [self._rng.randrange(*_PORTS) for _ in range(_TRIES - 1)]
        granted: Granted = await self._run(self._map, port, (wanted, *others), lifetime)
        return granted

    async def unmap(self, router: IPv4Address | None, granted: Granted) -> None:
        await self._run(self._unmap, granted.place.port)

    async def stop(self) -> None:
        """
        Take away what was added, and let the thread go when that is done, or when the workers wait
        no longer.
        """
        if self._started:
            self._started = False
            self._stopping = True
            self._workers.run(self._end).addCallbacks(self._ended, self._not_ended)
            await self._workers.stopService()

    def _ended(self, left: dict[int, str]) -> None:
        for outer, why in left.items():
            self._log.info(
                "the router may pass on its port {port} for a while: {why}", port=outer, why=why
            )

    def _not_ended(self, failure: Failure) -> None:
        self._log.info(
            "the router may pass on ports for a while: {error}", error=failure.getErrorMessage()
        )

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if not self._started:
            self._started, self._stopping = True, False
            self._workers.startService()
        return await self._workers.run(work, *arguments)

    # --- in the thread ------------------------------------------------------------------------

    def _device(self) -> Any:
        try:
            module = self._load()
        except ImportError:
            raise MappingFailed(
                "UPnP needs miniupnpc, which is not installed: pip install 'meshkit[upnp]'"
            ) from None
        device = module.UPnP()
        device.discoverdelay = _DISCOVER_MS
        try:
            device.discover()
            device.selectigd()
        except Exception as e:
            raise MappingFailed(f"no router answers by UPnP: {e}") from None
        return device

    def _map(self, port: int, wanted: tuple[int, ...], lifetime: int) -> Granted:
        # Looked for each time: the host may be elsewhere by now.
        device = self._found = self._device()
        address = self._address(device)
        for outer in wanted:
            place = outside(address, outer)
            if self._stopping:
                raise MappingFailed("the node is being stopped")
            try:
                lasts = self._add(device, outer, port, lifetime)
            except Exception as e:
                # What it raises has no type of its own, and says what the router has said.
                if str(e) == _TAKEN:
                    continue
                raise MappingFailed(f"the router refuses by UPnP: {e}") from None
            self._added[outer] = device
            if self._stopping:
                # Meanwhile; perhaps nothing more is asked of this thread.
                self._end()
            return Granted(port, place, lasts)
        raise MappingFailed(f"the router has given all of its ports {wanted} to others")

    def _address(self, device: Any) -> IPv4Address:
        """@return: the router's, as others see it."""
        try:
            return IPv4Address(device.externalipaddress())
        except Exception as e:
            raise MappingFailed(f"the router does not tell its address by UPnP: {e}") from None

    def _add(self, device: Any, outer: int, port: int, lifetime: int) -> int | None:
        """@return: seconds for which it lasts; L{None} if until it is ended."""
        arguments = (outer, "TCP", device.lanaddr, port, _DESCRIPTION, "")
        try:
            device.addportmapping(*arguments, lifetime)
        except Exception as e:
            if str(e) != _FOR_EVER_ONLY:
                raise
            device.addportmapping(*arguments, 0)
            return None
        return lifetime

    def _unmap(self, outer: int) -> None:
        device = self._added.pop(outer, None) or self._found or self._device()
        try:
            device.deleteportmapping(outer, "TCP")
        except Exception as e:
            raise MappingFailed(f"the router refuses by UPnP: {e}") from None

    def _end(self) -> dict[int, str]:
        """@return: what may be left, and why."""
        left = {}
        while self._added:
            outer, device = self._added.popitem()
            try:
                device.deleteportmapping(outer, "TCP")
            except Exception as e:
                left[outer] = str(e)
        return left
