"""
Who makes a request, and who answers it, where no channel says so: HTTP with signed messages.

L{signatures <meshkit.runtime.signed.signatures>} and L{replays <meshkit.runtime.signed.replays>}
are pure; L{signing <meshkit.runtime.signed.signing>} has the key and the clock at hand,
L{mark <meshkit.runtime.signed.mark>} the file by which nothing is let in twice over a restart, and
L{tls <meshkit.runtime.signed.tls>} what hides all of it.  A door has a tag of its own.
"""
