"""
What is measured side by side: pairs of processes, a server and a client of one kind.

Those of others may be I{absent}: not installed, or failing.  Then they have no figures,
and the reason is told.  Ours may not fail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from attrs import define, field, frozen

from tests.bench.children import PEERS, ROOT, Child, ChildFailed, child, python
from tests.interop import node

K = TypeVar("K", bound=Hashable)
P = ParamSpec("P")

_LIBP2P: Final = ROOT / ".tools" / "libp2p" / "bin" / "python"


@frozen
class Program:
    """
    What both processes of a pair run.

    @ivar command: L{None} if it is not installed.
    @ivar foreign: it is somebody else's, and may be absent.
    """

    name: str
    command: list[str] | None
    environ: dict[str, str] | None = None
    foreign: bool = False


def links(name: str, kind: str) -> Program:
    """See L{tests.bench.peers.links}."""
    return Program(name, python("links", kind))


def secret_handshake() -> Program:
    """The JavaScript reference of the secure channel."""
    name = "npm secret-handshake, pull-box-stream"
    try:
        command = [node.node(), "--expose-gc", "--no-deprecation", str(PEERS / "shs.js")]
        return Program(name, command, node.environment(), foreign=True)
    except AssertionError:
        return Program(name, None, foreign=True)


def libp2p() -> Program:
    """py-libp2p, in the environment that C{.ci/tools bench} made for it."""
    command = [str(_LIBP2P), str(PEERS / "libp2p_peer.py")] if _LIBP2P.exists() else None
    return Program("PyPI libp2p, Noise and yamux", command, foreign=True)


@define
class Contender(Generic[K]):
    """
    A pair that is measured.

    @ivar figures: by what was measured, one of each round; empty if it is absent.
    @ivar absent: why there are none.
    """

    program: Program
    figures: defaultdict[K, list[float]] = field(factory=lambda: defaultdict(list))
    absent: str | None = None
    _server: Child | None = None
    _client: Child | None = None
    address: Any = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def server(self) -> Child:
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Child:
        assert self._client is not None
        return self._client

    def attempt(
        self,
        step: Callable[Concatenate[Contender[K], P], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """
        Do a part of the measurement, if it is not absent.

        @param step: called with this and the arguments.
        @raise ChildFailed: it is ours.
        """
        if self.absent is not None:
            return
        try:
            step(self, *args, **kwargs)
        except ChildFailed as error:
            if not self.program.foreign:
                raise
            self.absent = str(error)
            self.figures.clear()


@contextmanager
def running(programs: Iterable[Program]) -> Iterator[list[Contender[Any]]]:
    """Servers that listen, and clients.  All processes are gone when the block is left."""
    with ExitStack() as stack:
        contenders: list[Contender[Any]] = []
        for program in programs:
            contender: Contender[Any] = Contender(program)
            contenders.append(contender)
            if program.command is None:
                contender.absent = "it is not installed: run .ci/tools bench"
                continue

            def start(it: Contender[Any]) -> None:
                command, environ = it.program.command, it.program.environ
                assert command is not None
                it._server, it._client = (
                    stack.enter_context(child(f"{it.name} ({role})", command, environ))
                    for role in ("server", "client")
                )
                it.address = it.server.ask("listen")
                for number, each in enumerate((it.server, it.client)):
                    each.keep_to(number)

            contender.attempt(start)
        yield contenders


def absences(contenders: Iterable[Contender[Any]]) -> str:
    """Why some have no figures, a line each."""
    return "".join(
        f"\nabsent: {it.name}: {it.absent}" for it in contenders if it.absent is not None
    )
