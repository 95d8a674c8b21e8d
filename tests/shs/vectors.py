"""
Known answers for Secret Handshake 1 and the box stream, from other implementations.

C{SHS1_C} is the test data of a C implementation (C{shs1.h}), which names as its origin
the gist AljoschaMeyer/d8766ce2ee6bc8e1e20194567863f25c; Rust implementations use the
same keys.  C{PYTHON_SSB} is that of C{python-ssb/secret-handshake}
(C{tests/test_crypto.py}, C{tests/test_boxstream.py}), with its box stream.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Vector:
    """One handshake: seeds and ephemeral secrets in, four messages and two keys out."""

    key: bytes
    client_seed: bytes
    client_ephemeral: bytes
    server_seed: bytes
    server_ephemeral: bytes
    messages: tuple[bytes, bytes, bytes, bytes]
    client_to_server: bytes
    server_to_client: bytes


_hex = bytes.fromhex

SHS1_C = Vector(
    key=_hex("6f619f56130d357342d12054ff8c8f559d4a209a9c5a1db98d13b8ff686b7cc6"),
    client_seed=_hex("f3a806322c4ec0b7d2f1bd24b79a847773542f9720201aed40b445145f855cb0"),
    client_ephemeral=_hex("50a9379d868edb987df0aed1e16d2ebc61e0c1bbc63ae2c118ebd5d63137d568"),
    server_seed=_hex("7662114d56743a926354c6a423dc49d5f6e0f2e6af7447da3825d442a30e4ad1"),
    server_ephemeral=_hex("b0f8d2b9e24ca299ef9039ceda6102d79b05dfbd161c8955e4e95d4fd9cb3f7d"),
    messages=(
        _hex(
            "d306149bb2d11e6b01038cf2496574eaf97f83e38e42f0c30d32266007d07cb4"
            "4f4f4deefed781c5eb29b9d02f209225ffedd0d7b65cc96a55569d2935a5b120"
        ),
        _hex(
            "2c8c4fe31799cacb5128723b38a73fa6c909329800ffe293162b54636bc6c6db"
            "a60c3fdaeb883d63e88ea593585d4fb117948139b318c0ae5a3e285333096152"
        ),
        _hex(
            "502218c32ed3eb425b594162891a56c52004998ea01238b40cab7f262c354a40"
            "37bc1619a11907f3c8c491f9cfd358b200ceadeabc14fbf0c7a95eb4d42096e2"
            "8a2c8deb21985bd71f7e3030dcef61e1674fbe38e3678ec37c0a154c420bc20b"
            "dc0fa3428ae8e40c82ac0489349f4062"
        ),
        _hex(
            "48725c696d30110e1996f23294463119defeff7cc2905472be94fcbd9f849dad"
            "5c0ef7c657e88d53544fe22bc25f0e088ae960287e99cd245fcbc8cadd767e63"
            "2fd8d1db0385f0d8a6b6b6e2d774b142"
        ),
    ),
    client_to_server=_hex("a21d99967be10aadafc9a022beb39e0eb069e8ee614285c2fa94c707229dae18"),
    server_to_client=_hex("7d8899076df1ef54e4b08d173a815ae4bc5dbfe0d14393bb2dccb2114de17562"),
)

PYTHON_SSB = Vector(
    key=_hex("291356d28154da68e8a9ee4fed71497c0a67d121a41b544d7a6157e76e0df5bc"),
    client_seed=_hex("bf023cd3659dac2dd19e2d7be571900311ba8c5351a0c3707e89e6ee62aa1c17"),
    client_ephemeral=_hex("7538d0e385645f507a0cf5fd15ce327023b0f09fe621e1cbf69309eb727b318b"),
    server_seed=_hex("ca7701c26351fd949f14840c303c6cd8e4f53e125c96cd9b0c027a269621e0a2"),
    server_ephemeral=_hex("65641c01037304dc8e60d65ad0753bcb5891d85a4ff8f0d627d5b15979137948"),
    messages=(
        _hex(
            "64e8cc44ecb945bbaaa77fe3381516efcad232751dfe3ce76ad7f07563f072f3"
            "7f0918ec8cf7ff8ea9c833131852161de5c64bae94db567484dc1c402b441c25"
        ),
        _hex(
            "535c068de5eb262ab80b70b35a8e5c8514aa1c8d699d7fa9ea776cb97d85c369"
            "6b0c20282445b48a78c429743cd78bd607b7ec77840de12d497a60eb0489d67b"
        ),
        _hex(
            "f2af3f7a1510d0f0dfe391fe141c7d7aabee79f5effca1456456f25495735b21"
            "247aeb8f1b964a50175e92c89eb42a3560f28f492e93b9143aca4006ffd1f14a"
            "c874c4d8c3245bc5946a65830025991016b1a2b2b7bfc98814b9bb5e097a71a4"
            "efc5f51f3723ed9258b2e3e58b5b7433"
        ),
        _hex(
            "b4d0eafbfbf673cc10c4999522132079a6ea2e47ee648d3d7439887c94d1bc4b"
            "d437d8bc473168acd0eb2a1f8dae0b9147a1e69662f2da393075eb5fabdbcb25"
            "64377db5ce286b15e34c9d29d5a17c3a"
        ),
    ),
    client_to_server=_hex("ec1f2c829fed41c0da875bf975bfac9c49a554d191ffa82ed020fb55c71429c7"),
    server_to_client=_hex("f965a04173b23db7507ef3f928fd7ffeb7545a686ed78c3dea2e6f9e8c392910"),
)

#: What C{PYTHON_SSB}'s client sends for these bodies, and its goodbye.
BOXES = (
    (
        b"foo",
        _hex("ce76ed45066c0213c81756fa8b5a3f8842254fb04c9f8e8c30791d76c0c9f69dc2dfdbee9d"),
    ),
    (
        b"foo",
        _hex("1431d6331364d1ec5a9bd0d403cd523f27aa2e89499249f967754caa063feaca2f7d882ab2"),
    ),
    (
        b"bar",
        _hex("cb5959f10fa54f1372a62215c59d0d2e2a0b92106da6280c0cc631806a81298030eddaada1"),
    ),
)
GOODBYE = _hex("b114685527b54da622039d7579a1d46576572cdc4518e42b204334e86896edc59480")
