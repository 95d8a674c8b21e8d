"""C{meshkit audit verify}: what the receipt of an audit proves, with nothing but the file."""

from __future__ import annotations

import errno
from typing import Any, Final

import click

from meshkit.audit.transcript import MAX_RECEIPT_FILE, Examined, ExaminedShare, Proof, examine
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.errors import AuditInvalid, ConfigError
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.moments import rfc3339

_NS: Final = 1_000_000

#: What each kind of proof comes to, in a few words.
_PROVEN: Final[dict[Proof, str]] = {
    "missing": "the peer signed that it does not have it; that it had promised to, says who asked",
    "another": "the peer signed another root or size than the manifest that who asked has shown",
    "wrong": "the peer signed leaves that do not lead to the root it signed",
    "said": "the peer signed what it has; that it is right says who asked",
    "nothing": "nothing: it is the word of who asked",
}


@click.command()
@click.argument("receipt", metavar="RECEIPT", type=click.Path(exists=True, dir_okay=False))
@json_option
def verify(receipt: str, as_json: bool) -> None:
    """
    See for yourself what the receipt of an audit proves, and for whom.

    Needs no node, no keys and no network: the statements of both sides are in the file. Exit
    code 0: they are genuine and belong together, and the verdicts follow from them, whatever
    these are; 1: they are not, and the receipt proves nothing.

    A manifest proves something only to who knows the object: compare its id with the one that
    is named here, as anybody can make a manifest that says something else.
    """
    try:
        raw = LocalFiles().read(receipt, MAX_RECEIPT_FILE)
    except OSError as e:
        if e.errno == errno.EFBIG:
            raise AuditInvalid(f"{receipt} is too large to be the receipt of an audit") from None
        raise ConfigError(f"{receipt} cannot be read: {e.strerror}") from None
    examined = examine(raw)
    if as_json:
        print_json(_document(examined))
    else:
        _show(examined)


def _when(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else rfc3339(milliseconds * _NS)


def _document(examined: Examined) -> dict[str, Any]:
    opening = examined.opening
    return {
        "audit": opening.audit_id.hex(),
        "network": opening.network.hex(),
        "auditor": opening.auditor.text,
        "peer": opening.peer.text,
        "asked": _when(opening.issued),
        "answered": _when(examined.answered),
        "shown": _when(examined.revealed),
        "judged": _when(examined.judged),
        "shares": [_share(each) for each in examined.shares],
    }


def _share(share: ExaminedShare) -> dict[str, Any]:
    return {
        # Who knows the whole name may ask a peer for the share.
        "share": share.name.hex()[:16],
        "verdict": share.outcome,
        "proof": share.proof,
        "root": None if share.root is None else share.root.hex(),
        "size": share.size,
        "object": None if share.content_id is None else share.content_id.hex(),
    }


def _show(examined: Examined) -> None:
    opening = examined.opening
    line(f"audit    {opening.audit_id.hex()}")
    line(f"network  {opening.network.hex()}")
    line(f"asked    {_when(opening.issued)}  by {opening.auditor.text}")
    line(f"answered {_when(examined.answered)}  by {opening.peer.text}")
    if examined.revealed is None:
        line("shown    nothing: for that there is only the word of who asked")
    else:
        line(f"shown    {_when(examined.revealed)}  by {opening.peer.text}")
    line(f"judged   {_when(examined.judged)}  by {opening.auditor.text}")
    line("")
    table(
        ("SHARE", "VERDICT", "PROVEN"),
        [
            (each.name.hex()[:16], each.outcome, _PROVEN[each.proof] + _of(each))
            for each in examined.shares
        ],
    )


def _of(share: ExaminedShare) -> str:
    return "" if share.content_id is None else f" (object {share.content_id.hex()})"
