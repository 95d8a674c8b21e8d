"""Pages, and what fits a message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import MAX_SHARES, SAMPLED
from meshkit.audit.transcript import MAX_GRANT, Said
from meshkit.audit.wire import (
    AGAIN,
    LEAVES,
    MAX_PAGE_SHARES,
    OPEN,
    PAGE_BYTES,
    REVEAL,
    AgainRequest,
    OpenRequest,
    Page,
    pages_of,
)
from meshkit.crypto.samples import leaf_count, sample_bytes
from meshkit.identity.envelope import MAX_ENVELOPE
from meshkit.rpc.codec import encoded_size
from meshkit.runtime.limits import MAX_MESSAGE

sizes = st.one_of(st.none(), st.integers(0, 50_000), st.integers(0, 2**40), st.just(2**63 - 1))


class Pages(SynchronousTestCase):
    @given(st.lists(sizes, min_size=1, max_size=300))
    def test_each_share_is_in_one_page_and_each_page_fits(self, found: list[int | None]) -> None:
        said = [None if size is None else Said(size, bytes(32)) for size in found]
        pages = pages_of(said)
        self.assertEqual([at for page in pages for at in page], list(range(len(said))))
        for page in pages:
            self.assertTrue(0 < len(page) <= MAX_PAGE_SHARES)
            most = sum(_most(found[at]) for at in page)
            self.assertLessEqual(most, PAGE_BYTES)

    def test_the_largest_page_fits_a_message(self) -> None:
        said = [Said(2**63 - 1, bytes(32))] * MAX_SHARES
        size = sample_bytes(2**63 - 1, 0)
        first = pages_of(said)[0]
        page = Page([[bytes(size)] * SAMPLED for _ in first], bytes(MAX_ENVELOPE))
        self.assertGreater(encoded_size(page), PAGE_BYTES // 2)
        for method in (REVEAL, AGAIN, LEAVES):
            self.assertLess(encoded_size(page), method.max_answer)
            self.assertLess(method.max_answer, MAX_MESSAGE)

    def test_the_largest_requests_fit(self) -> None:
        envelope = bytes(MAX_ENVELOPE)
        largest = OpenRequest(envelope, [bytes(MAX_GRANT)] * MAX_SHARES)
        self.assertLessEqual(encoded_size(largest), OPEN.max_request)
        again = AgainRequest(envelope, envelope, bytes(32))
        self.assertLessEqual(encoded_size(again), AGAIN.max_request)
        self.assertLessEqual(encoded_size(envelope), OPEN.max_answer)


def _most(size: int | None) -> int:
    """Bytes of the samples of a share, at most."""
    if not size:
        return 0
    leaves = leaf_count(size)
    return min(SAMPLED, leaves) * max(sample_bytes(size, at) for at in {0, leaves // 2})
