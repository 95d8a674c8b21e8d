"""
The child processes of the bench: what is measured, and what it is measured against.

All of them do I{jobs}.  A job is a line of JSON on standard input, C{{"job": NAME, ...}}
with its arguments, and is answered by one line of JSON on standard output,
C{{"done": ...}} or C{{"failed": "why"}}; one at a time.  A child ends when its standard
input does, so that none outlives the bench, however that ended; and after
L{LIFETIME <tests.bench.peers.jobs.LIFETIME>} in any case.

C{python -m tests.bench.peers.NAME}, or a program for the Node or the Python of
C{.ci/tools bench}:

  - C{links}: the secure channel, and connections without it that set the ceiling;
  - C{calls}: calls by RPC, by AMP, and 64 bytes sent back without a protocol;
  - C{shs.js}: the JavaScript reference of the secure channel;
  - C{libp2p_peer.py}: py-libp2p with Noise and yamux;
  - C{hash_tables}, C{kademlia_peer.py}, C{libp2p_dht.py}: networks of nodes of the hash table
    in one process, ours, of PyPI's kademlia, and of py-libp2p;
  - C{stores}, C{plain_parts}, C{kryden.js}: peers that keep files for a client: ours, the same
    parts without anything around them, and Kryden's;
  - C{audits}, C{plain_audits}, C{passes}: storage peers and who audits them, what that cannot do
    without, and a scheduler with its objects and peers.

B{A transfer} is the same on all of them: the sender writes the count of bytes (u64,
big-endian) and then so many bytes, in writes of one size and no faster than the
transport takes them; the receiver sends one byte back when it has all of them.
"""
