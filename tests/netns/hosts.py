"""
Hosts, routers and slow links of our own: network namespaces, in which real nodes run.

::

    internet = Internet()
    ada = internet.host("ada", "5.1.0.1")
    router = internet.router("router", "5.2.0.1")
    bob = router.host("bob")                    # 192.168.1.2, seen by ada as 5.2.0.1
    subprocess.run([*bob.prefix, "ip", "addr"])
    internet.close()

All of it is in one user namespace, so that nobody has to be root; where the machine refuses
that, L{skip_reason} says so, word for word as in C{tests/allowed_skips.txt}.

A namespace lives as long as a process in it.  Here that is a shell which waits for its standard
input to end, so that nothing remains when the tests are killed, whatever they were doing.

Hosts of the Internet are at one bridge, and each has an address of 5.0.0.0/8, which is the
network of all: nothing is routed there, and a miniupnpd takes the addresses for public ones.
What crosses a router is translated by the kernel, as it is by most routers in homes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any, Final

from attrs import define, field, frozen

NO_NAMESPACES: Final = "network namespaces are refused on this machine"
NO_NFT: Final = "there is no nft on this machine, and only root can install it"
NO_MINIUPNPD: Final = "there is no miniupnpd on this machine, and no Debian to take it from"
NO_TUN: Final = "there is no /dev/net/tun on this machine that may be used"

#: Seconds that a command which sets something up may take.
_PATIENCE: Final = 20.0

#: Bits of the network of all public addresses.
_PUBLIC_BITS: Final = 8

_HERE: Final = Path(__file__).parent
_SLOW_LINK: Final = _HERE / "slow_link.py"

#: Where C{.ci/tools} unpacks it.
_MINIUPNPD: Final = _HERE.parents[1] / ".tools" / "miniupnpd" / "miniupnpd"

#: What miniupnpd writes its rules into; the router lets through what it has translated.
_MAPPED: Final = """
table inet filter {
    chain prerouting {
        type nat hook prerouting priority -100;
        jump prerouting_miniupnpd
    }
    chain miniupnpd {}
    chain prerouting_miniupnpd {}
    chain postrouting_miniupnpd {}
}
"""
_MAPPING_SETTINGS: Final = """
ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
uuid=00000000-0000-4000-8000-000000000001
"""

#: The router's rules.  What comes from outside and was not asked for is dropped, and not refused:
#: else the kernel would remember it as a flow of the router's own, and give another port to what
#: a host sends there a moment later.  Kernels may have bridges ask these rules as well, so what
#: goes from one host behind the router to another has to be let pass.
_RULES: Final = """
table ip nat {{
    chain forwarded {{ type nat hook prerouting priority -100; }}
    chain out {{
        type nat hook postrouting priority 100;
        oifname "wan" masquerade {how}
    }}
}}
table ip filter {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname "wan" ct state new drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" oifname "wan" accept
        iifname "lan" oifname "lan" accept
        ct status dnat accept
    }}
}}
"""


@cache
def skip_reason(*, nft: bool = False, tun: bool = False, miniupnpd: bool = False) -> str | None:
    """
    @param nft: routers are needed.
    @param tun: slow links are needed.
    @param miniupnpd: a router is to map ports.
    @return: why tests that need them must be skipped, for C{skip = ...}; L{None} if they need not.
    """
    if any(which(program) is None for program in ("ip", "nsenter", "unshare")):
        return NO_NAMESPACES
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        timeout=_PATIENCE,
    )
    if tried.returncode:
        return NO_NAMESPACES
    if nft and which("nft", path=_path()) is None:
        return NO_NFT
    if tun and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return NO_TUN
    if miniupnpd and _miniupnpd() is None:
        return NO_MINIUPNPD
    return None


def _miniupnpd() -> str | None:
    return which("miniupnpd", path=_path()) or which(_MINIUPNPD)


def _path() -> str:
    """Where programs of administrators are as well."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def _run(command: list[str], given: str = "") -> str:
    """
    @raise AssertionError: with what it complained of, if it failed.
    """
    done = subprocess.run(
        command,
        input=given.encode(),
        capture_output=True,
        timeout=_PATIENCE,
        env={**os.environ, "PATH": _path()},
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.decode()}{done.stdout.decode()}")
    return done.stdout.decode()


@define(eq=False)
class Host:
    """
    One machine.

    @ivar address: its IPv4 address.
    @ivar prefix: written before a command, it has that run there.
    """

    name: str
    address: str
    _holder: subprocess.Popen[bytes]
    prefix: tuple[str, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.prefix = (
            *("nsenter", "--target", str(self.pid), "--user", "--preserve-credentials"),
            *("--net", "--"),
        )

    @property
    def pid(self) -> int:
        """Of a process there."""
        return self._holder.pid

    def run(self, *command: str, given: str = "") -> str:
        """
        Run a command to its end.

        @param given: its standard input.
        @return: what it printed.
        @raise AssertionError: it failed.
        """
        return _run([*self.prefix, *command], given)

    def cut(self) -> None:
        """Pull its cable out."""
        self.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it in again."""
        self.run("ip", "link", "set", "eth0", "up")
        self._route()

    def _route(self) -> None:
        """A host at the bridge reaches all others there."""


@define(eq=False)
class Client(Host):
    """A host behind a router, which sends everything through it."""

    _gateway: str = field(kw_only=True)

    def _route(self) -> None:
        self.run("ip", "route", "replace", "default", "via", self._gateway)


@define(eq=False)
class Router(Host):
    """
    What stands between hosts and the Internet.

    @ivar lan: the network behind it, without the last number.
    """

    lan: str
    _internet: Internet
    _count: int = field(default=1, init=False)

    def host(self, name: str) -> Client:
        """A host behind it."""
        self._count += 1
        address = f"{self.lan}.{self._count}"
        gateway = f"{self.lan}.1"
        holder = self._internet.hold()
        host = Client(name, address, holder, gateway=gateway)
        self._internet.plug(self, "lan", host, f"{address}/24", f"port{self._count}")
        host._route()
        return host

    def map_ports(self, folder: Path) -> None:
        """
        Have hosts behind it ask for ports: by UPnP, NAT-PMP and PCP.

        @param folder: for files of the program, which is the one that many routers run.
        """
        program = _miniupnpd()
        assert program is not None
        self.run("nft", "-f", "-", given=_MAPPED)
        settings = folder / f"{self.name}.conf"
        settings.write_text(_MAPPING_SETTINGS)
        command = (program, "-d", "-f", str(settings), "-P", str(folder / f"{self.name}.pid"))
        with (folder / f"{self.name}.log").open("wb") as log:
            self._internet.start(self, *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def mapped(self) -> str:
        """@return: the rules by which it passes on what hosts have asked for."""
        return self.run("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")

    def forward(self, port: int, to: Host, port_there: int) -> None:
        """Have what comes to a TCP port given to a host behind it, as its owner may set up."""
        rule = f"iifname wan tcp dport {port} dnat to {to.address}:{port_there}"
        self.run("nft", "add", "rule", "ip", "nat", "forwarded", *rule.split())


@frozen
class SlowLink:
    """
    Two hosts with nothing but a long wire between them.

    @ivar ends: them; each is the only other one that it reaches.
    """

    ends: tuple[Host, Host]
    _relay: subprocess.Popen[bytes]

    def cut(self) -> None:
        """Let nothing pass any more; both still take each other for being there."""
        self._tell("cut")

    def mend(self) -> None:
        """Let all pass."""
        self._tell("mend")

    def _tell(self, word: str) -> None:
        assert self._relay.stdin is not None and self._relay.stdout is not None
        self._relay.stdin.write(f"{word}\n".encode())
        self._relay.stdin.flush()
        if self._relay.stdout.readline().strip() != word.encode():
            raise AssertionError("the slow link does not work any more")


class Internet:
    """See the module.  Call L{close} in the end."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._routers = 0
        self._links = 0
        self._ports = 0
        self._prefix: tuple[str, ...] = ()
        try:
            first = self._start(
                ["unshare", "--user", "--map-root-user", "--net", *_waiting()], reads=True
            )
            self._bridge = Host("internet", "", first)
            self._prefix = (
                *("nsenter", "--target", str(first.pid), "--user", "--preserve-credentials"),
                "--",
            )
            self._bridge.run("ip", "link", "add", "bridge", "type", "bridge")
            self._bridge.run("ip", "link", "set", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def host(self, name: str, address: str) -> Host:
        """A host with a public address."""
        host = Host(name, address, self.hold())
        self._join(host, "eth0")
        return host

    def router(self, name: str, address: str, *, symmetric: bool = False) -> Router:
        """
        A router that translates.

        @param symmetric: give each flow another port, which nobody can guess; else a host's own
            port is kept while nobody else has it.
        """
        self._routers += 1
        lan = f"192.168.{self._routers}"
        router = Router(name, address, self.hold(), lan, self)
        self._join(router, "wan")
        # Without snooping, every host gets what is sent to groups.
        router.run("ip", "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        router.run("ip", "address", "add", f"{lan}.1/24", "dev", "lan")
        router.run("ip", "link", "set", "lan", "up")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        how = "fully-random" if symmetric else ""
        router.run("nft", "-f", "-", given=_RULES.format(how=how))
        return router

    def slow_link(
        self, names: tuple[str, str], *, delay: float, loss: float, seed: int = 1
    ) -> SlowLink:
        """
        @param delay: seconds that a packet takes, each way.
        @param loss: which part of the packets is lost, each way.
        @param seed: decides which.
        """
        self._links += 1
        addresses = [f"10.9.{self._links}.{number}" for number in (1, 2)]
        ends = tuple(Host(name, at, self.hold()) for name, at in zip(names, addresses, strict=True))
        first, second = ends
        relay = self._start(
            [
                *self._prefix,
                *(sys.executable, str(_SLOW_LINK), str(first.pid), str(second.pid)),
                *(repr(delay), repr(loss), str(seed)),
            ],
            reads=True,
        )
        for end, other in ((first, second), (second, first)):
            end.run("ip", "address", "add", end.address, "peer", other.address, "dev", "eth0")
            end.run("ip", "link", "set", "eth0", "up")
        return SlowLink((first, second), relay)

    # --- inside ------------------------------------------------------------------------------

    def hold(self) -> subprocess.Popen[bytes]:
        """@return: a process in a new namespace."""
        holder = self._start([*self._prefix, "unshare", "--net", *_waiting()], reads=True)
        Host("", "", holder).run("ip", "link", "set", "lo", "up")
        return holder

    def _join(self, host: Host, interface: str) -> None:
        self._ports += 1
        self.plug(
            self._bridge,
            "bridge",
            host,
            f"{host.address}/{_PUBLIC_BITS}",
            f"port{self._ports}",
            interface,
        )

    def plug(
        self, at: Host, bridge: str, host: Host, address: str, port: str, interface: str = "eth0"
    ) -> None:
        """Lay a cable from a host to a bridge elsewhere."""
        peer = ("peer", "name", interface, "netns", str(host.pid))
        at.run("ip", "link", "add", port, "type", "veth", *peer)
        at.run("ip", "link", "set", port, "master", bridge, "up")
        host.run("ip", "address", "add", address, "dev", interface)
        host.run("ip", "link", "set", interface, "up")

    def _start(self, command: list[str], *, reads: bool) -> subprocess.Popen[bytes]:
        """Start what goes on until its standard input ends, and wait for its first line."""
        started = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": _path()},
            start_new_session=True,
        )
        self._processes.append(started)
        assert started.stdout is not None
        if reads and started.stdout.readline() != b"ready\n":
            raise AssertionError(f"{' '.join(command)} ended with {started.wait(_PATIENCE)}")
        return started

    def start(self, host: Host, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """
        Start a program on a host, which is killed when all this is closed.

        @param options: further ones of C{subprocess.Popen}.
        """
        started = subprocess.Popen(
            [*host.prefix, *command],
            env={**os.environ, "PATH": _path()},
            start_new_session=True,
            **options,
        )
        self._processes.append(started)
        return started

    def close(self) -> None:
        """Have all hosts and what was started on them gone."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait(_PATIENCE)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._processes.clear()


def _waiting() -> tuple[str, ...]:
    """A program that says that it is there, and ends with its standard input."""
    return ("sh", "-c", "echo ready; read line")
