"""
Letters come once, from whom they say, and are lost with no relay that lies as long as another one
does not.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from meshkit.identity.addresses import MeshAddress
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import Said, SimNode
    from meshkit.sim.running import Run

__all__ = ["Delivered", "honest_relays"]

_SEND: Final = "/v1/mailbox/send"


@frozen
class _Sent:
    """A letter of which the sender's door has said that it is on the disk there."""

    id: bytes
    sender: str
    recipient: str
    text: str


def honest_relays(run: Run, node: SimNode) -> list[str]:
    """@return: names of the relays that a node uses and that do not lie."""
    if not node.running or not _has_mailbox(node):
        return []
    used = node.given["settings"].section("relays").use
    found = [run.name_of(MeshAddress.parse(text).key.raw) for text in used]
    return [name for name in found if name in run.nodes]


class Delivered(Invariant):
    """
    A letter that is kept at a recipient was handed over by the sender that it names, for that
    recipient and with that text, and is there once: that is read from the database, each second.

    Some time after everything was mended, each letter that a door has accepted is there, if
    sender and recipient both use a relay that does not lie.  One that is not there is with its
    sender: no relay has it yet, or the receipt of one that lies is kept with it.
    """

    name = "delivered"

    def __init__(self) -> None:
        self._sent: dict[bytes, _Sent] = {}
        # (sender, recipient, text) of what was asked for, answered or not.
        self._asked: set[tuple[str, str, str]] = set()
        # Recipient -> (sender, id) of what he has, and the number that was looked at last.
        self._has: dict[str, set[tuple[str, bytes]]] = {}
        self._seen: dict[str, int] = {}

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "door.call" and details["target"] == _SEND:
            body = details["body"]
            self._asked.add((host, self._name(run, body["to"]), body["text"]))

    def said(self, run: Run, said: Said) -> None:
        if said.target != _SEND or said.answer.status != 202:
            return
        id = bytes.fromhex(said.answer.json["data"]["id"])
        to = self._name(run, said.body["to"])
        self._sent[id] = _Sent(id, said.node, to, said.body["text"])

    def _name(self, run: Run, key: str) -> str:
        for name, node in run.nodes.items():
            if node.identity.public.text == key:
                return name
        return key

    def sampled(self, run: Run) -> None:
        for node in run.nodes.values():
            if node.ready and _has_mailbox(node):
                self._look(run, node)

    def _look(self, run: Run, node: SimNode) -> None:
        try:
            rows = node.look(
                "SELECT number, sender, id, body FROM mailbox_letters WHERE number > ? "
                "ORDER BY number",
                (self._seen.get(node.name, 0),),
            )
        except sqlite3.Error as e:
            run.violated(self.name, node.name, f"the letters cannot be read: {e}")
            return
        for number, key, id, body in rows:
            self._seen[node.name] = number
            sender, text = run.name_of(key), bytes(body).decode()
            if (sender, node.name, text) not in self._asked:
                what = f"a letter of {sender} that was never sent: {text!r}"
                run.violated(self.name, node.name, what)
            has = self._has.setdefault(node.name, set())
            if (sender, id) in has:
                run.violated(self.name, node.name, f"a letter of {sender} came twice: {text!r}")
            has.add((sender, id))

    def agrees(self, run: Run) -> bool:
        return not self._missing(run)

    def _missing(self, run: Run) -> list[_Sent]:
        return [
            sent
            for sent in self._sent.values()
            if (sent.sender, sent.id) not in self._has.get(sent.recipient, ())
            and honest_relays(run, run.nodes[sent.sender])
            and honest_relays(run, run.nodes[sent.recipient])
        ]

    def settled(self, run: Run) -> None:
        self.sampled(run)
        for sent in self._missing(run):
            what = f"{sent.text!r} has not come, though an honest relay was there"
            run.violated(self.name, sent.recipient, what)
        for sent in self._sent.values():
            if (sent.sender, sent.id) not in self._has.get(sent.recipient, ()):
                self._accounted(run, sent)

    def _accounted(self, run: Run, sent: _Sent) -> None:
        """It has not come: is it known whose fault that is?"""
        node = run.nodes[sent.sender]
        rows = node.look(
            "SELECT state, relay, receipt FROM mailbox_outbox WHERE id = ?", (sent.id,)
        )
        if not rows:
            run.violated(self.name, node.name, f"{sent.text!r} was accepted, and is not there")
        for state, relay, receipt in rows:
            if state == 1 and (receipt is None or run.name_of(relay) not in run.liars):
                what = f"{sent.text!r} is lost, and no relay that lies has signed for it"
                run.violated(self.name, node.name, what)


def _has_mailbox(node: SimNode) -> bool:
    return any(each.name == "mailbox" for each in node.given["composition"].order)
