"""Who is who: keys, ids, networks, addresses and signed statements.  No I/O but key files."""
