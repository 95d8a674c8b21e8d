"""docs/protocol/tunnel.md, beside what is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity import vouchers
from meshkit.identity.contexts import RELAY_VOUCHER
from meshkit.identity.network import GUEST_LABEL
from meshkit.relay.tunnel import holding, limits, wire
from meshkit.shs.listener import MAX_UNAUTHENTICATED_LOCAL
from meshkit.testing.transports import HIGH_WATER

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "tunnel.md"


def number(text: str) -> int:
    return int(text.replace(",", ""))


class PageTests(SynchronousTestCase):
    """The numbers and names of the page."""

    def setUp(self) -> None:
        self.page = PAGE.read_text()
        self.rows = {
            cells[0]: cells[1:]
            for line in self.page.splitlines()
            if line.startswith("|")
            for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
        }

    def test_what_strangers_and_members_get(self) -> None:
        names = {
            "reservations in all": "reservations",
            "reservations of one IPv4 address or IPv6 /64": "per_origin",
            "circuits in all": "circuits",
            "circuits of one key, asked for or asking": "per_peer",
            "seconds of a circuit": "seconds",
            "bytes of a circuit in each direction": "size",
            "bytes of one key in a day": "daily",
        }
        for row, name in names.items():
            for cell, allowance in zip(
                self.rows[row], (limits.STRANGERS, limits.MEMBERS), strict=True
            ):
                self.assertEqual(number(cell), getattr(allowance, name), row)
        self.assertEqual(
            set(names.values()), {each.name for each in limits.Allowance.__attrs_attrs__}
        )

    def test_the_other_limits(self) -> None:
        for row, limit in {
            "seconds that a reservation holds": limits.RESERVATION_SECONDS,
            "hours that a voucher may be good for, to who reads it": vouchers.MAX_LIFETIME
            // 3_600_000,
            "bytes of a voucher": vouchers.MAX_VOUCHER,
            "relays in an address record": vouchers.MAX_PATHS,
            "seconds in which a circuit connection says what it is for": limits.OPENING_SECONDS,
            "seconds in which the hidden peer fetches a circuit": limits.JOIN_SECONDS,
            "seconds in which a control connection reserves something": limits.RESERVE_SECONDS,
            "seconds after which a circuit in which nothing moves is reset": limits.IDLE_SECONDS,
            "requests for circuits of one key at once": limits.ASK_BURST,
            "... and each second; of strangers also for one address": limits.ASK_RATE,
            "connections of one key that have not said what they are for, or wait": (
                limits.MAX_WAITING
            ),
            "... of all keys": limits.MAX_WAITING_ALL,
            "part of all circuits that askers of one address may have: one of": limits.ORIGIN_SHARE,
            "bytes from a peer, beyond which a circuit is charged to its day too": (
                limits.HANDSHAKE_BYTES
            ),
            "circuits that a hidden peer takes at a time": limits.MAX_JOINED,
            "bytes of a frame": wire.MAX_FRAME,
        }.items():
            self.assertEqual(number(self.rows[row][0]), limit, row)

    def test_the_numbers_in_its_sentences(self) -> None:
        text = " ".join(self.page.split())
        for sentence in (
            f"after a pause of {holding.FIRST_PAUSE:g} second that doubles up to "
            f"{holding.LONGEST_PAUSE:g} seconds",
            f"the high-water mark of its transport, {HIGH_WATER:,} bytes",
            f"({MAX_UNAUTHENTICATED_LOCAL} that are under way)",
        ):
            self.assertIn(sentence, text)

    def test_its_names(self) -> None:
        self.assertIn(f"`{RELAY_VOUCHER}`", self.page)
        self.assertIn(f"under `{vouchers.PATHS_NAME}`", self.page)
        for label in (wire.CONTROL_LABEL, wire.CIRCUIT_LABEL, GUEST_LABEL):
            self.assertIn(f"`{label}`", self.rows)
        methods = [wire.RESERVE.name, wire.RELEASE.name, wire.OFFER.name]
        said = re.findall(r"(relay\.\w+) +\[.*->", self.page)
        self.assertEqual(said, methods)
