"""
What comes of an audit, from what the peer has said and shown.  Pure.

The leaves are checked page by page as they come (L{check_page}), which is meant for a worker
thread, and all is judged together when the transcript is there (L{judge}).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from meshkit.audit.transcript import Answer, Evidence, Said, Transcript
from meshkit.audit.values import Outcome
from meshkit.crypto.samples import checked, sample_bytes
from meshkit.errors import AuditInvalid

if TYPE_CHECKING:
    from meshkit.audit.containment import ContainedShare

__all__ = ["Judged", "Shown", "check_page", "judge"]


@frozen
class Shown:
    """
    What a peer has shown of a share.

    @ivar digest: of the samples; L{None} if there are none.
    @ivar good: they lead to the root that the peer has said.
    @ivar samples: kept only where they do not.
    """

    digest: bytes | None = field(repr=False)
    good: bool
    samples: tuple[bytes, ...] = field(default=(), repr=False)


@frozen
class Judged:
    """
    The verdict on a share.

    @ivar outcome: C{success} or C{failure}.
    @ivar reason: in a sentence, if it is a failure.
    @ivar blameless: see L{meshkit.audit.values.ShareOutcome}.
    @ivar evidence: for a receipt.
    """

    outcome: Outcome
    reason: str | None = None
    blameless: bool = False
    evidence: Evidence | None = None


_NOTHING: Final = Shown(None, False)
_SUCCESS: Final = Judged("success")


def check_page(
    said: Sequence[Said | None],
    numbers: Sequence[Sequence[int]],
    samples: Sequence[Sequence[bytes]],
) -> list[Shown]:
    """
    @param said: what the peer has said of the shares of the page.
    @param numbers: the leaves that were asked for.
    @param samples: what has come.
    @return: one for each share.
    @raise AuditInvalid: if it is not of the form that follows from what was said.  That shows
        nothing, neither for the peer nor against it.
    """
    if len(samples) != len(said):
        raise AuditInvalid(f"a page has {len(samples)} shares, and {len(said)} were asked for")
    found = []
    for each, wanted, given in zip(said, numbers, samples, strict=True):
        if each is None or (wanted and not given):
            if given:
                raise AuditInvalid("a page shows a share that the peer has said it does not have")
            found.append(_NOTHING)
            continue
        if len(given) != len(wanted):
            raise AuditInvalid(
                f"a page has {len(given)} leaves of a share, and {len(wanted)} were asked for"
            )
        for number, sample in zip(wanted, given, strict=True):
            if len(sample) != sample_bytes(each.size, number):
                raise AuditInvalid("a leaf and its proof do not have the length that they have to")
        digest, good = checked(each.root, each.size, wanted, given)
        found.append(Shown(digest, good, () if good else tuple(given)))
    return found


def judge(
    answer: Answer,
    transcript: Transcript,
    shown: Sequence[Shown],
    shares: Sequence[ContainedShare],
    manifest_of: Callable[[bytes], bytes],
) -> list[Judged]:
    """
    @param shown: for each share what was shown.
    @param shares: what should have been.
    @param manifest_of: gives the manifest of an object by its id; empty, if it is not known.
    @return: one verdict for each share.
    @raise AuditInvalid: if the peer has signed something else than what it has shown.
    """
    for digest, each in zip(transcript.digests, shown, strict=True):
        if digest != each.digest:
            raise AuditInvalid("the peer has shown other leaves than it has signed")
    now = answer.answered // 1000
    return [
        _judge(at, answer.said[at], shown[at], share, now, manifest_of)
        for at, share in enumerate(shares)
    ]


def _judge(
    at: int,
    said: Said | None,
    shown: Shown,
    share: ContainedShare,
    now: int,
    manifest_of: Callable[[bytes], bytes],
) -> Judged:
    if said is None or shown.digest is None:
        over = share.lease_end <= now
        what = "does not have the share" if said is None else "cannot read the share"
        why = ", and its lease was over" if over else ""
        return Judged("failure", f"the peer says that it {what}{why}", over)
    if (said.size, said.root) != (share.size, share.root):
        reason = "the peer has another share than the manifest says"
    elif not shown.good:
        reason = "the leaves that the peer has shown are not those of the share"
    else:
        return _SUCCESS
    return Judged(
        "failure", reason, False, Evidence(at, manifest_of(share.content_id), shown.samples)
    )
