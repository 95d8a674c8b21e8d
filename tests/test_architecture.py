"""
The rules of the house, read off the syntax trees of all modules.

  - Imports point down only (L{LAYERS}); features do not know each other.
  - Cores that are pure stay so (L{PURE}).
  - Time, randomness, threads and the order of things are arguments, so that a whole
    mesh can be run in one process and replayed from a seed (L{BANNED}).
  - Signatures without a context are made where an older protocol asks for them only.

Each rule is a function that gives the problems of one module.  Each is tried on code
that breaks it, as a rule that finds nothing looks just like a rule that is kept.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from textwrap import dedent
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

ROOT: Final = Path(__file__).resolve().parents[1]

# --- the house ---------------------------------------------------------------------

#: Modules without reactor, clock, file or socket.  Add those of a new room here.
PURE: Final = frozenset(
    {
        "meshkit.audit.challenge",
        "meshkit.audit.decisions",
        "meshkit.audit.judging",
        "meshkit.audit.replay",
        "meshkit.audit.schema",
        "meshkit.audit.standing",
        "meshkit.audit.targets",
        "meshkit.audit.transcript",
        "meshkit.audit.values",
        "meshkit.audit.wire",
        "meshkit.cli.pump",
        "meshkit.discovery.beacon",
        "meshkit.discovery.choosing",
        "meshkit.discovery.invites",
        "meshkit.discovery.exchange.health",
        "meshkit.discovery.exchange.known",
        "meshkit.discovery.exchange.wire",
        "meshkit.discovery.trying",
        "meshkit.discovery.wellknown",
        "meshkit.feed.acceptance",
        "meshkit.feed.canonical",
        "meshkit.feed.chain",
        "meshkit.feed.cursors",
        "meshkit.feed.floats",
        "meshkit.feed.message",
        "meshkit.feed.private_box",
        "meshkit.feed.rotation",
        "meshkit.feed.schemas",
        "meshkit.feed.sealing",
        "meshkit.feed.timestamps",
        "meshkit.feed.words",
        "meshkit.gossip.codec",
        "meshkit.gossip.credit",
        "meshkit.gossip.egregore.datagrams",
        "meshkit.gossip.egregore.memory",
        "meshkit.gossip.egregore.session",
        "meshkit.gossip.egregore.wire",
        "meshkit.gossip.reconcile",
        "meshkit.gossip.spread",
        "meshkit.hooks.config",
        "meshkit.hooks.retries",
        "meshkit.hooks.signing",
        "meshkit.kademlia.blocks",
        "meshkit.kademlia.contacts",
        "meshkit.kademlia.distance",
        "meshkit.kademlia.estimate",
        "meshkit.kademlia.holdings",
        "meshkit.kademlia.kinds",
        "meshkit.kademlia.lookup",
        "meshkit.kademlia.publications",
        "meshkit.kademlia.records",
        "meshkit.kademlia.routing",
        "meshkit.kademlia.schedule",
        "meshkit.kademlia.wire",
        "meshkit.mapping.gateway",
        "meshkit.mapping.natpmp",
        "meshkit.mapping.pcp",
        "meshkit.mapping.values",
        "meshkit.relay.forwarding.config",
        "meshkit.relay.mailbox.prekeys",
        "meshkit.relay.mailbox.receipts",
        "meshkit.relay.mailbox.schema",
        "meshkit.relay.mailbox.sealing",
        "meshkit.relay.mailbox.wire",
        "meshkit.relay.relays.config",
        "meshkit.relay.registry.registration",
        "meshkit.relay.registry.rules",
        "meshkit.relay.registry.schema",
        "meshkit.relay.registry.wire",
        "meshkit.relay.stun.message",
        "meshkit.relay.tunnel.circuits",
        "meshkit.relay.tunnel.direct",
        "meshkit.relay.tunnel.holding",
        "meshkit.relay.tunnel.limits",
        "meshkit.relay.tunnel.reservations",
        "meshkit.relay.tunnel.ways",
        "meshkit.relay.tunnel.wire",
        "meshkit.relay.webrtc.description",
        "meshkit.relay.webrtc.stream",
        "meshkit.rpc.codec",
        "meshkit.rpc.methods",
        "meshkit.rpc.table",
        "meshkit.runtime.egress",
        "meshkit.runtime.limits",
        "meshkit.shs.boxstream",
        "meshkit.shs.egregore",
        "meshkit.shs.egregore_stream",
        "meshkit.shs.handshake",
        "meshkit.shs.hellos",
        "meshkit.shs.probe",
        "meshkit.shs.secretbox",
        "meshkit.shs.suites",
        "meshkit.storage.canonical",
        "meshkit.storage.capability",
        "meshkit.storage.client.placing",
        "meshkit.storage.codecs",
        "meshkit.storage.encoding",
        "meshkit.storage.erasure",
        "meshkit.storage.galois",
        "meshkit.storage.custody",
        "meshkit.storage.header",
        "meshkit.storage.hedging",
        "meshkit.storage.http.messages",
        "meshkit.runtime.signed.replays",
        "meshkit.runtime.signed.signatures",
        "meshkit.storage.http.wire",
        "meshkit.storage.keeper.capacity",
        "meshkit.storage.keeper.index",
        "meshkit.storage.keeper.leases",
        "meshkit.storage.manifest",
        "meshkit.storage.membership",
        "meshkit.storage.placement_document",
        "meshkit.storage.objects.config",
        "meshkit.storage.objects.reconciling",
        "meshkit.storage.placement_record",
        "meshkit.storage.receipts",
        "meshkit.storage.rendezvous",
        "meshkit.storage.scheme",
        "meshkit.storage.statements",
        "meshkit.storage.terms",
        "meshkit.storage.zfec_files",
        "meshkit.web.lines",
        "meshkit.web.mcp.catalogue",
        "meshkit.web.mcp.limits",
        "meshkit.web.mcp.mirrors",
        "meshkit.web.mcp.offers",
        "meshkit.web.mcp.wire",
        "meshkit.web.untrusted",
    }
)

#: Rooms that know nothing of one another.
FEATURES: Final = frozenset(
    f"meshkit.{name}"
    for name in (
        "audit",
        "discovery",
        "feed",
        "files",
        "gossip",
        "hooks",
        "intel",
        "kademlia",
        "knowledge",
        "mapping",
        "messaging",
        "relay",
        "storage",
        "trust",
    )
)

#: Pure cores that describe what several features work on: the objects that the one stores are
#: what the other audits and repairs; and where one may dial on the word of others.  They know no
#: feature, so every feature may know them.
FORMATS: Final = frozenset({"meshkit.kademlia.blocks", "meshkit.kademlia.contacts"}) | frozenset(
    f"meshkit.storage.{name}"
    for name in (
        "canonical",
        "capability",
        "codecs",
        "custody",
        "encoding",
        "erasure",
        "header",
        "hedging",
        "manifest",
        "placement_document",
        "receipts",
        "rendezvous",
        "scheme",
        "statements",
        "terms",
    )
)

GROUND: Final = frozenset(
    {
        "meshkit",
        "meshkit.aliases",
        "meshkit.dropins",
        "meshkit.errors",
        "meshkit.interfaces",
        "meshkit.operations",
        "meshkit.parts",
    }
)

#: For tests and simulations, ours and other people's; nothing that runs uses them.
WORKSHOP: Final = frozenset(
    {"meshkit.cli.durability", "meshkit.cli.simulate", "meshkit.sim", "meshkit.testing"}
)

#: Where the clock, the randomness and the reactor are taken, to be handed on.  Who
#: writes an endpoint string has nothing to hand over but text.
EDGE: Final = frozenset(
    {"meshkit.cli", "meshkit.relay.tunnel.strings", "meshkit.shs.strings", "meshkit.tap"}
)

#: From the ground floor up; a module imports its own floor and those below.
LAYERS: Final = (
    ("ground", GROUND),
    ("identity", frozenset({"meshkit.identity"})),
    ("crypto", frozenset({"meshkit.crypto"})),
    ("pure cores", PURE),
    ("runtime", frozenset({"meshkit.runtime"})),
    ("shells", frozenset({"meshkit.rpc", "meshkit.shs"})),
    ("features", FEATURES),
    ("web", frozenset({"meshkit.web"})),
    ("services", frozenset({"meshkit.services"})),
    ("edge", EDGE),
    ("workshop", WORKSHOP),
)

#: What a drop-in may import: every twistd of the machine pays for it.
DROP_IN_IMPORTS: Final = frozenset(
    {
        "__future__",
        "meshkit.dropins",
        "meshkit.interfaces",
        "meshkit.parts",
        "twisted.application.service",
        "twisted.internet.interfaces",
        "twisted.plugin",
        "typing",
        "zope.interface",
    }
)

#: What the operations of a feature may import: the command line loads them all.
OPERATIONS_IMPORTS: Final = frozenset({"meshkit.errors", "meshkit.operations", "msgspec"})

#: What has no place in a pure core.
IMPURE: Final = (
    "asyncio",
    "io",
    "os",
    "pathlib",
    "select",
    "shutil",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "twisted.application",
    "twisted.internet",
    "twisted.protocols",
    "twisted.web",
)

#: Where signing without a context is part of an older protocol, or a lie.
RAW_SIGNERS: Final = (
    "meshkit.identity",
    "meshkit.shs",
    "meshkit.crypto.sealed",
    "meshkit.crypto.wrap",
    "meshkit.feed.message",
    "meshkit.feed.private_box",
    "meshkit.relay.mailbox.sealing",
    "meshkit.runtime.signed.signatures",
    "meshkit.sim.liars.forging",
)
RAW_SIGNING: Final = frozenset({"_sign_raw", "_x25519_secret"})

#: Names that take something behind the caller's back, and what to do instead.
BANNED: Final = {
    "time": "take IReactorTime, or the wall clock as a callable",
    "datetime.datetime.now": "take the wall clock as a callable",
    "datetime.datetime.today": "take the wall clock as a callable",
    "datetime.datetime.utcnow": "take the wall clock as a callable",
    "datetime.date.today": "take the wall clock as a callable",
    "random": "take rng: random.Random",
    "secrets": "take rng: random.Random",
    "uuid": "take rng: random.Random",
    "os.urandom": "take rng: random.Random",
    "os.getrandom": "take rng: random.Random",
    "ssl.RAND_bytes": "take rng: random.Random",
    "nacl.utils.random": "take rng: random.Random",
    "nacl.bindings.randombytes": "take rng: random.Random",
    "nacl.bindings.crypto_box_seal": "make the ephemeral key from rng",
    "nacl.public.SealedBox": "make the ephemeral key from rng",
    "nacl.public.PrivateKey.generate": "make the key from rng",
    "nacl.signing.SigningKey.generate": "make the key from rng",
    "nacl.pwhash.str": "use kdf with a salt from rng",
    "Crypto.Random": "take rng: random.Random",
    "Crypto.Protocol.HPKE.new": "make the ephemeral key from rng",
    "tempfile": "take IFiles",
    "weakref": "what goes with the last reference goes when the collector thinks it is time",
    "os.getpid": "take it as an argument",
    "os.cpu_count": "take it as an argument",
    "multiprocessing.cpu_count": "take it as an argument",
    "twisted.internet.reactor": "take the reactor as the first parameter",
    "twisted.internet.task.react": "take the reactor as the first parameter",
    "twisted.internet.task.cooperate": "take a Cooperator",
    "twisted.internet.task.coiterate": "take a Cooperator",
    "twisted.internet.threads.deferToThread": "use the worker pool of the node",
}
BANNED_PATTERNS: Final = (
    (re.compile(r"nacl\.bindings\.(\w+\.)*crypto_(?!\w*seed_keypair)\w*_keypair"), "give a seed"),
    (re.compile(r"cryptography\..*\.generate(_key)?"), "make the key from rng"),
    (re.compile(r"Crypto\.PublicKey\.\w+\.generate"), "make the key from rng"),
)

#: Parts of a banned module that hide nothing.
HARMLESS: Final = frozenset({"random", "random.Random"})

#: What the edge alone may take, in order to hand it on.
TAKEN_AT_EDGE: Final = frozenset(
    {
        "os.cpu_count",
        "os.getpid",
        "random.SystemRandom",
        "time",
        "time.time",
        "time.time_ns",
        "twisted.internet.reactor",
        "twisted.internet.task.react",
    }
)

#: What one module may take, as it is handed on to nobody who could see the difference.
TAKEN_IN: Final = {"meshkit.sim.running": "tempfile.TemporaryDirectory"}

#: Folders come in the order of the disk.
LISTINGS: Final = frozenset({"glob.glob", "glob.iglob", "os.listdir", "os.scandir", "os.walk"})
LISTING_METHODS: Final = frozenset({"glob", "iterdir", "rglob"})

SQL: Final = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|REPLACE)\b")
SQL_HIDDEN: Final = re.compile(
    r"\b(random|randomblob)\s*\(|\bCURRENT_(TIMESTAMP|TIME|DATE)\b|'now'|\bunixepoch\s*\(\s*\)",
    re.IGNORECASE,
)

# --- modules -----------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """
    One imported name.

    @ivar name: dotted, with the name taken from the module at its end.
    @ivar binds: the local name, and what it stands for.
    @ivar typing: only there for annotations.
    """

    name: str
    binds: tuple[str, str]
    line: int
    typing: bool


@dataclass(frozen=True)
class Module:
    """A module: its dotted name, file and source."""

    name: str
    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All of the tree: each rule looks at them."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports())

    def _imports(self) -> Iterator[Import]:
        for_types = {
            id(inner)
            for node in self.nodes
            if isinstance(node, ast.If) and _is_type_checking(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in self.nodes:
            typing = id(node) in for_types
            if isinstance(node, ast.Import):
                for each in node.names:
                    first = each.name.partition(".")[0]
                    binds = (each.asname, each.name) if each.asname else (first, first)
                    yield Import(each.name, binds, node.lineno, typing)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                for each in node.names:
                    name = base if each.name == "*" else f"{base}.{each.name}"
                    yield Import(name, (each.asname or each.name, name), node.lineno, typing)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")
        up = node.level - self.path.endswith("__init__.py")
        parts = package[: len(package) - up] if up else package
        return ".".join([*parts, *([node.module] if node.module else [])])

    @cached_property
    def names(self) -> dict[str, str]:
        """What the imported local names stand for."""
        return dict(each.binds for each in self.imports)

    def resolve(self, node: ast.AST) -> str | None:
        """The dotted name that an expression refers to, if it is an imported one."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None

    def within(self, *prefixes: str) -> bool:
        return any(_within(self.name, prefix) for prefix in prefixes)


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


@cache
def modules() -> tuple[Module, ...]:
    """All modules that are shipped."""
    found = []
    for folder in ("meshkit", "meshkit_plugins", "twisted"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(name, relative.as_posix(), path.read_text(encoding="utf-8")))
    return tuple(found)


def layer(name: str) -> int | None:
    """The floor of a dotted name, or L{None} if it has none."""
    best: tuple[int, int] | None = None
    for number, (_, members) in enumerate(LAYERS):
        for member in members:
            # The package itself is ground, and what is in it is not.
            fits = name == member if member == "meshkit" else _within(name, member)
            if fits and (best is None or len(member) > best[0]):
                best = len(member), number
    return None if best is None else best[1]


def feature(name: str) -> str | None:
    """The feature that a dotted name belongs to."""
    return next((each for each in FEATURES if _within(name, each)), None)


def own_imports(module: Module) -> Iterator[Import]:
    """What a module imports from this house when it runs."""
    for each in module.imports:
        if _within(each.name, "meshkit") and not each.typing:
            yield each


# --- the rules ---------------------------------------------------------------------

Rule = Callable[[Module], Iterator[str]]


def imports_point_down(module: Module) -> Iterator[str]:
    if not module.within("meshkit"):
        return
    mine = layer(module.name)
    if mine is None:
        yield f"{module.path}: give this room a floor in LAYERS"
        return
    for each in own_imports(module):
        # "from meshkit import __version__" takes a name of the ground floor.
        target = layer(each.name)
        if target is None:
            target = 0
        if target > mine:
            yield (
                f"{module.path}:{each.line}: {LAYERS[mine][0]} imports "
                f"{each.name} of {LAYERS[target][0]}"
            )


def _is_format(name: str) -> bool:
    """Is it a module of L{FORMATS}, or something in one?"""
    return name in FORMATS or name.rpartition(".")[0] in FORMATS


def features_are_strangers(module: Module) -> Iterator[str]:
    mine = feature(module.name)
    for each in own_imports(module):
        theirs = feature(each.name)
        if theirs is None or theirs == mine or _is_format(each.name):
            continue
        if mine is not None or module.within("meshkit.services"):
            yield f"{module.path}:{each.line}: imports {each.name}; meet through an interface"


def workshop_stays_outside(module: Module) -> Iterator[str]:
    if module.within(*WORKSHOP):
        return
    for each in module.imports:
        if any(_within(each.name, room) for room in WORKSHOP):
            yield f"{module.path}:{each.line}: imports {each.name}, which is for tests"


def operations_are_light(module: Module) -> Iterator[str]:
    if feature(module.name) is None or not module.name.endswith(".operations"):
        return
    for each in module.imports:
        if each.name.partition(".")[0] in sys.stdlib_module_names:
            continue
        if not any(_within(each.name, allowed) for allowed in OPERATIONS_IMPORTS):
            yield f"{module.path}:{each.line}: imports {each.name}; operations declare only"


def cores_are_pure(module: Module) -> Iterator[str]:
    if module.name not in PURE and not module.within("meshkit.crypto"):
        return
    for each in module.imports:
        if any(_within(each.name, name) for name in IMPURE) and not each.typing:
            yield f"{module.path}:{each.line}: a pure core imports {each.name}"
    for node in module.nodes:
        called = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
        if called in ("input", "open", "print"):
            yield f"{module.path}: a pure core calls {called}()"


def drop_ins_are_light(module: Module) -> Iterator[str]:
    if not module.within("meshkit_plugins", "twisted"):
        return
    for each in module.imports:
        if not any(_within(each.name, allowed) for allowed in DROP_IN_IMPORTS):
            yield f"{module.path}:{each.line}: a drop-in imports {each.name}"


def drop_ins_hold_one_thing(module: Module) -> Iterator[str]:
    # The plugin cache of an older version lists what that one held: a second attribute
    # added later stays unseen wherever the file kept its time stamp.
    if not module.within("meshkit_plugins", "twisted") or module.name == "meshkit_plugins":
        return
    public = [
        target.id
        for node in module.tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    ]
    if len(public) != 1:
        yield f"{module.path}: holds {len(public)} public names instead of one plugin"
    if not module.path.rpartition("/")[2].startswith("meshkit_"):
        yield f"{module.path}: of two drop-ins of one name one is lost: begin it with meshkit_"


def nothing_is_taken_in_secret(module: Module) -> Iterator[str]:
    seen = {(each.name, each.line) for each in module.imports}
    for node in module.nodes:
        name = module.resolve(node)
        if name is not None and isinstance(node, (ast.Name, ast.Attribute)):
            seen.add((name, node.lineno))
    for name, line in sorted(seen, key=lambda pair: (pair[1], pair[0])):
        instead = _banned(name)
        taken = module.within(*EDGE) and _taken_at_edge(name)
        taken = taken or any(module.within(own) and name == it for own, it in TAKEN_IN.items())
        if instead is not None and not taken:
            yield f"{module.path}:{line}: {name}: {instead}"


def _banned(name: str) -> str | None:
    if any(name == each or (each != "random" and _within(name, each)) for each in HARMLESS):
        return None
    for banned, instead in BANNED.items():
        if _within(name, banned):
            return instead
    for pattern, instead in BANNED_PATTERNS:
        if pattern.fullmatch(name):
            return instead
    return None


def _taken_at_edge(name: str) -> bool:
    return any(name == each or (each != "time" and _within(name, each)) for each in TAKEN_AT_EDGE)


def library_randomness_is_replaced(module: Module) -> Iterator[str]:
    """Calls that draw a nonce, or take a clock, when they are given none."""
    draws_nonce = any(_within(each.name, "nacl") for each in module.imports)
    for node in module.nodes:
        if not isinstance(node, ast.Call):
            continue
        keywords = {each.arg for each in node.keywords}
        name = module.resolve(node.func) or ""
        where = f"{module.path}:{node.lineno}"
        if re.fullmatch(r"Crypto\.Cipher\.\w+\.new", name):
            modes = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            if "nonce" not in keywords and "MODE_ECB" not in modes:
                yield f"{where}: {name} without nonce= draws one"
        elif name == "twisted.internet.task.Cooperator":
            if not node.args and "terminationPredicateFactory" not in keywords:
                yield f"{where}: a Cooperator without terminationPredicateFactory reads the clock"
        elif (
            draws_nonce
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "encrypt"
            and len(node.args) == 1
            and "nonce" not in keywords
        ):
            yield f"{where}: encrypt() without nonce draws one"


def order_is_never_left_to_chance(module: Module) -> Iterator[str]:
    consumers = _consumers(module)
    named = _named_sets(module)
    for node in module.nodes:
        if isinstance(node, (ast.For, ast.AsyncFor)) and _is_set(node.iter, named):
            yield f"{module.path}:{node.lineno}: loops over a set: wrap it in sorted()"
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.DictComp)):
            if consumers.get(id(node)) not in _ORDERLESS and any(
                _is_set(each.iter, named) for each in node.generators
            ):
                yield f"{module.path}:{node.lineno}: loops over a set: wrap it in sorted()"
        elif isinstance(node, ast.Call):
            orders = (
                isinstance(node.func, ast.Name)
                and node.func.id in ("list", "tuple", "enumerate", "iter", "next", "zip", "map")
            ) or (isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "extend"))
            if orders and any(_is_set(each, named) for each in node.args):
                yield f"{module.path}:{node.lineno}: puts a set in order: use sorted()"
            lists = module.resolve(node.func) in LISTINGS or (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in LISTING_METHODS
                and module.resolve(node.func) is None
            )
            if lists and consumers.get(id(node)) not in _ORDERLESS:
                yield f"{module.path}:{node.lineno}: lists a folder: wrap it in sorted()"


# Given to these, a set's order does not show.
_ORDERLESS: Final = frozenset(
    {"all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum"}
)


def _consumers(module: Module) -> dict[int, str | None]:
    """The functions whose first arguments nodes are, by these."""
    return {
        id(node.args[0]): getattr(node.func, "id", None)
        for node in module.nodes
        if isinstance(node, ast.Call) and node.args
    }


def _named_sets(module: Module) -> frozenset[str]:
    """
    Names and attributes that hold a set wherever they are in the module: those that are
    annotated so, or made so, and nowhere otherwise.
    """
    found: dict[str, bool] = {}
    for node in module.nodes:
        if isinstance(node, ast.AnnAssign):
            holds = _means_set(node.annotation)
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            holds = _is_set(node.value, frozenset())
            targets = node.targets
        elif isinstance(node, ast.arg) and node.annotation is not None:
            found[node.arg] = _means_set(node.annotation) and found.get(node.arg, True)
            continue
        else:
            continue
        for name in map(_name_of, targets):
            if name is not None:
                found[name] = holds and found.get(name, True)
    return frozenset(name for name, holds in found.items() if holds)


def _means_set(annotation: ast.expr) -> bool:
    outer = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(outer, ast.Name) and outer.id in ("set", "frozenset")


def _name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _is_set(node: ast.expr, named: frozenset[str]) -> bool:
    if _name_of(node) in named:
        return True
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(
        node.op, (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)
    ):
        return any(_is_set(side, named) or _is_keys(side) for side in (node.left, node.right))
    return False


def _is_keys(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "keys"
    )


def nothing_hangs_on_memory(module: Module) -> Iterator[str]:
    """Addresses of objects, hashes of strings, and when something is collected."""
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef) and node.name == "__del__":
            yield f"{module.path}:{node.lineno}: __del__ runs when the collector does"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("hash", "id")
        ):
            yield f"{module.path}:{node.lineno}: {node.func.id}() differs between two processes"


def sql_has_no_clock(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            hidden = SQL_HIDDEN.search(node.value)
            if hidden and SQL.search(node.value):
                yield f"{module.path}:{node.lineno}: SQL with {hidden[0]}: bind a parameter"


def raw_signatures_are_rare(module: Module) -> Iterator[str]:
    if module.within(*RAW_SIGNERS):
        return
    for node in module.nodes:
        name = (
            node.attr
            if isinstance(node, ast.Attribute)
            else node.value
            if isinstance(node, ast.Constant)
            else None
        )
        if isinstance(name, str) and name in RAW_SIGNING:
            yield f"{module.path}:{node.lineno}: {name}: sign with a context"


def errors_are_not_swallowed(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler):
            silent = all(isinstance(each, (ast.Pass, ast.Continue)) for each in node.body)
            swallows = node.type is None or (silent and _is_any_error(node.type))
        elif isinstance(node, ast.Call):
            swallows = module.resolve(node.func) == "contextlib.suppress" and any(
                _is_any_error(each) for each in node.args
            )
        else:
            continue
        if swallows:
            yield f"{module.path}:{node.lineno}: swallows every error: name those meant"


def _is_any_error(node: ast.expr) -> bool:
    return any(
        isinstance(each, ast.Name) and each.id in ("BaseException", "Exception")
        for each in ast.walk(node)
    )


def modules_say_what_they_are(module: Module) -> Iterator[str]:
    if not (ast.get_docstring(module.tree) or "").strip():
        yield f"{module.path}: has no docstring"
    if module.path.rpartition("/")[2] in ("util.py", "utils.py"):
        yield f"{module.path}: say what it is for instead of util"


RULES: Final[tuple[Rule, ...]] = (
    imports_point_down,
    features_are_strangers,
    workshop_stays_outside,
    operations_are_light,
    cores_are_pure,
    drop_ins_are_light,
    drop_ins_hold_one_thing,
    nothing_is_taken_in_secret,
    library_randomness_is_replaced,
    order_is_never_left_to_chance,
    nothing_hangs_on_memory,
    sql_has_no_clock,
    raw_signatures_are_rare,
    errors_are_not_swallowed,
    modules_say_what_they_are,
)


class HouseTests(SynchronousTestCase):
    """The rules are kept."""

    @classmethod
    def setUpClass(cls) -> None:
        # So that the time for it does not count as that of whichever test is the first.
        for module in modules():
            assert module.tree

    def kept(self, rule: Rule) -> None:
        problems = [problem for module in modules() for problem in rule(module)]
        self.assertEqual(problems, [], "\n".join(["", *problems]))

    def test_imports_point_down(self) -> None:
        self.kept(imports_point_down)

    def test_features_do_not_know_each_other(self) -> None:
        self.kept(features_are_strangers)

    def test_nothing_that_runs_uses_what_is_for_tests(self) -> None:
        self.kept(workshop_stays_outside)

    def test_operations_import_nothing_heavy(self) -> None:
        self.kept(operations_are_light)

    def test_cores_are_pure(self) -> None:
        self.kept(cores_are_pure)

    def test_drop_ins_import_nothing_heavy(self) -> None:
        self.kept(drop_ins_are_light)

    def test_drop_ins_hold_one_plugin_each(self) -> None:
        self.kept(drop_ins_hold_one_thing)

    def test_no_clock_randomness_or_reactor_is_taken_in_secret(self) -> None:
        self.kept(nothing_is_taken_in_secret)

    def test_no_library_draws_its_own_randomness(self) -> None:
        self.kept(library_randomness_is_replaced)

    def test_order_is_never_left_to_chance(self) -> None:
        self.kept(order_is_never_left_to_chance)

    def test_nothing_hangs_on_addresses_hashes_or_the_collector(self) -> None:
        self.kept(nothing_hangs_on_memory)

    def test_sql_has_no_clock_and_no_dice(self) -> None:
        self.kept(sql_has_no_clock)

    def test_signatures_have_a_context(self) -> None:
        self.kept(raw_signatures_are_rare)

    def test_no_error_is_swallowed(self) -> None:
        self.kept(errors_are_not_swallowed)

    def test_every_module_says_what_it_is(self) -> None:
        self.kept(modules_say_what_they_are)

    def test_no_rule_is_forgotten_above(self) -> None:
        here = Module("tests", "tests", Path(__file__).read_text(encoding="utf-8"))
        tried = {
            node.args[0].id
            for node in ast.walk(here.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "kept"
            and isinstance(node.args[0], ast.Name)
        }
        self.assertEqual(tried, {rule.__name__ for rule in RULES})

    def test_the_modules_are_found(self) -> None:
        names = {module.name for module in modules()}
        self.assertLessEqual(
            {"meshkit", "meshkit.errors", "meshkit_plugins", "twisted.plugins.meshkit_node"}, names
        )

    def test_every_pure_core_is_still_there(self) -> None:
        self.assertEqual(sorted(PURE - {module.name for module in modules()}), [])

    def test_the_folder_twisted_is_no_package(self) -> None:
        # One __init__.py there would hide Twisted in a checkout, and replace its files
        # when it is installed.
        self.assertEqual(sorted((ROOT / "twisted").rglob("__init__.py")), [])
        self.assertEqual([path.name for path in (ROOT / "twisted").glob("*.py")], [])


class RuleTests(SynchronousTestCase):
    """The rules find what breaks them, and let pass what does not."""

    def problems(self, rule: Rule, name: str, source: str) -> list[str]:
        path = name.replace(".", "/") + ".py"
        return list(rule(Module(name, path, dedent(source))))

    def breaks(self, rule: Rule, name: str, *sources: str) -> None:
        for source in sources:
            found = self.problems(rule, name, source)
            self.assertNotEqual(found, [], f"{rule.__name__} lets pass in {name}: {source}")

    def keeps(self, rule: Rule, name: str, *sources: str) -> None:
        for source in sources:
            self.assertEqual(self.problems(rule, name, source), [], source)

    def test_imports_point_down(self) -> None:
        rule = imports_point_down
        self.breaks(rule, "meshkit.errors", "import meshkit.identity.keys")
        self.breaks(rule, "meshkit.identity.keys", "from meshkit.shs import channel")
        self.breaks(rule, "meshkit.identity.keys", "from ..runtime.files import LocalFiles")
        self.breaks(rule, "meshkit.feed.message", "from meshkit.feed.store import Store")
        self.breaks(rule, "meshkit.shs.handshake", "from meshkit.shs.channel import x")
        self.breaks(rule, "meshkit.shs.handshake", "def f():\n    import meshkit.runtime.files")
        self.breaks(rule, "meshkit.runtime.files", "from meshkit.shs.channel import x")
        self.breaks(rule, "meshkit.shs.channel", "from meshkit.feed.store import x")
        self.breaks(rule, "meshkit.feed.part", "from meshkit.web.rest import x")
        self.breaks(rule, "meshkit.web.rest", "from meshkit import services")
        self.breaks(rule, "meshkit.services.node", "from meshkit.tap.mesh_node import x")
        self.breaks(rule, "meshkit.attic.x", "")
        self.keeps(rule, "meshkit.errors", "import json")
        self.keeps(rule, "meshkit.identity.keys", "from meshkit.errors import X")
        self.keeps(rule, "meshkit.feed.store", "from meshkit.feed.message import X")
        self.keeps(rule, "meshkit.shs.channel", "from meshkit.runtime.limits import X")
        self.keeps(rule, "meshkit.identity.keys", "from meshkit import __version__")
        self.keeps(rule, "meshkit.sim.world", "from meshkit.services.node import X")
        self.keeps(
            rule,
            "meshkit.parts",
            """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from meshkit.identity.keys import Identity
            """,
        )

    def test_relative_imports_are_understood(self) -> None:
        for path, source, expected in (
            ("meshkit/feed/store.py", "from . import message", "meshkit.feed.message"),
            ("meshkit/feed/store.py", "from ..shs import channel", "meshkit.shs.channel"),
            ("meshkit/feed/__init__.py", "from .message import x", "meshkit.feed.message.x"),
            ("meshkit/feed/__init__.py", "from ..shs import x", "meshkit.shs.x"),
        ):
            name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            (found,) = Module(name, path, source).imports
            self.assertEqual(found.name, expected)

    def test_features_do_not_know_each_other(self) -> None:
        rule = features_are_strangers
        self.breaks(rule, "meshkit.gossip.part", "from meshkit.feed.message import X")
        self.breaks(rule, "meshkit.gossip.part", "import meshkit.feed.store")
        self.breaks(rule, "meshkit.services.node", "from meshkit.feed import part")
        self.keeps(rule, "meshkit.gossip.part", "from meshkit.gossip.codec import X")
        self.keeps(rule, "meshkit.gossip.part", "from meshkit.shs.channel import X")
        self.keeps(rule, "meshkit.cli.feed", "from meshkit.feed.operations import X")
        self.keeps(rule, "meshkit.audit.repair", "from meshkit.storage.manifest import X")
        self.breaks(rule, "meshkit.audit.repair", "from meshkit.storage.client.client import X")
        for name in sorted(FORMATS):
            self.assertIn(name, PURE)

    def test_nothing_that_runs_uses_what_is_for_tests(self) -> None:
        rule = workshop_stays_outside
        self.breaks(rule, "meshkit.cli.demo", "from meshkit.sim import world")
        self.breaks(rule, "meshkit_plugins.meshkit_x", "import meshkit.testing")
        self.breaks(rule, "meshkit.cli.main", "from meshkit.cli import simulate")
        self.keeps(rule, "meshkit.cli.simulate", "from meshkit.sim import world")
        self.keeps(rule, "meshkit.sim.world", "from meshkit.testing import transports")

    def test_operations_import_nothing_heavy(self) -> None:
        rule = operations_are_light
        self.breaks(rule, "meshkit.feed.operations", "from twisted.internet import defer")
        self.breaks(rule, "meshkit.feed.operations", "from meshkit.feed.message import X")
        self.breaks(rule, "meshkit.feed.operations", "import attrs")
        self.keeps(
            rule,
            "meshkit.feed.operations",
            "from typing import Any\nimport msgspec\nfrom meshkit.operations import Operation",
        )
        self.keeps(rule, "meshkit.web.operations", "import klein")

    def test_cores_are_pure(self) -> None:
        rule = cores_are_pure
        for source in (
            "from twisted.internet.defer import Deferred",
            "from twisted.internet import task",
            "import os",
            "import sqlite3",
            "open('x')",
            "print('x')",
        ):
            self.breaks(rule, "meshkit.shs.handshake", source)
            self.breaks(rule, "meshkit.crypto.merkle", source)
            self.keeps(rule, "meshkit.shs.channel", source)
        self.keeps(rule, "meshkit.shs.handshake", "import hashlib\nfrom attrs import frozen")
        self.keeps(
            rule,
            "meshkit.audit.values",
            """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from twisted.internet.defer import Deferred
            """,
        )

    def test_drop_ins_import_nothing_heavy(self) -> None:
        rule = drop_ins_are_light
        for name in ("meshkit_plugins.meshkit_x", "twisted.plugins.meshkit_x"):
            self.breaks(rule, name, "import klein")
            self.breaks(rule, name, "from meshkit.feed.part import make_part")
            self.breaks(rule, name, "from twisted.internet import reactor")
            self.breaks(rule, name, "def f():\n    import treq")
            self.keeps(rule, name, "from meshkit.parts import PartMaker")
            self.keeps(rule, name, "from twisted.application.service import ServiceMaker")

    def test_drop_ins_hold_one_plugin_each(self) -> None:
        rule = drop_ins_hold_one_thing
        self.breaks(rule, "twisted.plugins.meshkit_x", "", "a = 1\nb = 2", "_a = 1")
        self.breaks(rule, "twisted.plugins.other", "a = 1")
        self.keeps(rule, "twisted.plugins.meshkit_x", "a = 1", "a: int = 1")

    def test_no_clock_randomness_or_reactor_is_taken_in_secret(self) -> None:
        rule = nothing_is_taken_in_secret
        broken = (
            "import time",
            "import time as clock\nclock.monotonic()",
            "from time import sleep",
            "from datetime import datetime\ndatetime.now()",
            "import datetime as d\nd.datetime.utcnow()",
            "import datetime\ndatetime.date.today()",
            "import random\nrandom.random()",
            "from random import randbytes",
            "from random import SystemRandom",
            "import random as r\nrng = r.SystemRandom()",
            "import secrets",
            "from secrets import token_bytes as t",
            "import uuid",
            "import os\nos.urandom(3)",
            "from os import urandom as u",
            "import os\nf = os.getpid",
            "import os\nos.cpu_count()",
            "import tempfile",
            "from weakref import WeakSet",
            "from nacl.utils import random",
            "import nacl.utils\nnacl.utils.random(3)",
            "from nacl import utils as u\nu.random(3)",
            "from nacl.signing import SigningKey\nSigningKey.generate()",
            "from nacl.public import PrivateKey\nPrivateKey.generate()",
            "from nacl.public import SealedBox",
            "from nacl import bindings\nbindings.crypto_box_keypair()",
            "from nacl import bindings\nbindings.crypto_sign_keypair()",
            "from nacl import bindings\nbindings.crypto_box_seal(b'', b'')",
            "from Crypto.Random import get_random_bytes",
            "from Crypto import Random",
            "from Crypto.Protocol import HPKE\nHPKE.new()",
            "from Crypto.PublicKey import ECC\nECC.generate(curve='Ed25519')",
            "from cryptography.hazmat.primitives.ciphers.aead import AESGCM\nAESGCM.generate_key()",
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "def f():\n    from twisted.internet import reactor as r",
            "from twisted.internet.threads import deferToThread",
            "from twisted.internet import threads\nthreads.deferToThread(f)",
            "from twisted.internet.task import cooperate",
            "from twisted.internet import task\ntask.coiterate(i)",
        )
        self.breaks(rule, "meshkit.feed.store", *broken)
        self.breaks(rule, "meshkit.sim.world", *broken)
        self.keeps(
            rule,
            "meshkit.feed.store",
            "from random import Random",
            "import random\ndef f(rng: random.Random) -> None: rng.random()",
            "from datetime import datetime, UTC\ndatetime.fromtimestamp(3, UTC)",
            "import os\nos.path.join('a', 'b')",
            "from nacl import bindings\nbindings.crypto_sign_seed_keypair(b'')",
            "from twisted.internet import task\ntask.Clock()",
            "def f(reactor, time): return time.time() + reactor.seconds()",
        )

    def test_the_edge_takes_what_it_hands_on(self) -> None:
        rule = nothing_is_taken_in_secret
        for name in ("meshkit.cli.main", "meshkit.tap.mesh_node"):
            self.keeps(
                rule,
                name,
                "import time\nclock = time.time_ns",
                "from random import SystemRandom",
                "from twisted.internet import reactor\nreactor.run()",
                "from twisted.internet import task\ntask.react(f)",
                "import os\nos.getpid()",
            )
            self.breaks(
                rule,
                name,
                "import time\ntime.sleep(1)",
                "from time import sleep",
                "import random\nrandom.random()",
                "import secrets",
                "import tempfile",
                "from twisted.internet.threads import deferToThread",
            )

    def test_no_library_draws_its_own_randomness(self) -> None:
        rule = library_randomness_is_replaced
        self.breaks(
            rule,
            "meshkit.crypto.aead",
            "from Crypto.Cipher import AES\nAES.new(key, AES.MODE_GCM)",
            "from Crypto.Cipher import ChaCha20_Poly1305 as C\nC.new(key=key)",
            "from nacl.secret import SecretBox\nSecretBox(key).encrypt(data)",
            "from twisted.internet.task import Cooperator\nCooperator(scheduler=s)",
        )
        self.keeps(
            rule,
            "meshkit.crypto.aead",
            "from Crypto.Cipher import AES\nAES.new(key, AES.MODE_GCM, nonce=nonce)",
            "from Crypto.Cipher import AES\nAES.new(key, AES.MODE_ECB)",
            "from nacl.secret import SecretBox\nSecretBox(key).encrypt(data, nonce)",
            "from nacl.secret import SecretBox\nSecretBox(key).encrypt(data, nonce=nonce)",
            "stream.encrypt(data)",
            "from twisted.internet.task import Cooperator\n"
            "Cooperator(terminationPredicateFactory=f, scheduler=s)",
        )

    def test_order_is_never_left_to_chance(self) -> None:
        rule = order_is_never_left_to_chance
        self.breaks(
            rule,
            "meshkit.feed.store",
            "for x in {1, 2}: pass",
            "for x in set(y): pass",
            "[x for x in frozenset(y)]",
            "{x: 1 for x in {z for z in y}}",
            "f(x for x in set(y))",
            "for x in a.keys() & b.keys(): pass",
            "for x in set(a) - b: pass",
            "list(set(y))",
            "','.join({x for x in y})",
            "import os\nfor x in os.listdir('.'): pass",
            "import os\nnames = list(os.scandir('.'))",
            "import glob\nglob.glob('*')",
            "for x in folder.iterdir(): pass",
            "seen: set[str] = f()\nfor x in seen: pass",
            "seen = set()\n[x for x in seen]",
            "def f(seen: frozenset[bytes]): return list(seen)",
            "class A:\n    def f(self):\n        self.a = set()\n    def g(self):\n"
            "        for x in self.a: pass",
            "seen = {1}\nfor x in seen - {2}: pass",
        )
        self.keeps(
            rule,
            "meshkit.feed.store",
            "seen: set[str] = f()\nfor x in sorted(seen): pass",
            "seen: dict[str, None] = f()\nfor x in seen: pass",
            "seen = set()\nseen = []\nfor x in seen: pass",
            "seen: set[str] = f()\nx in seen",
            "for x in sorted({1, 2}): pass",
            "{x for x in set(y)}",
            "all(x for x in set(y))",
            "sorted(x for x in set(y))",
            "for x in [1, 2]: pass",
            "for x in a - b: pass",
            "x in {1, 2}",
            "import os\nsorted(os.listdir('.'))",
            "sorted(folder.iterdir())",
        )

    def test_nothing_hangs_on_addresses_hashes_or_the_collector(self) -> None:
        rule = nothing_hangs_on_memory
        self.breaks(
            rule,
            "meshkit.feed.store",
            "class A:\n    def __del__(self): pass",
            "key = id(x)",
            "sorted(y, key=lambda x: hash(x))",
        )
        self.keeps(rule, "meshkit.feed.store", "x.id()", "x.hash(y)", "def __hash__(self): pass")

    def test_sql_has_no_clock_and_no_dice(self) -> None:
        rule = sql_has_no_clock
        self.breaks(
            rule,
            "meshkit.feed.store",
            "q = 'SELECT a FROM b ORDER BY random()'",
            "q = 'CREATE TABLE a (b DEFAULT CURRENT_TIMESTAMP)'",
            "q = \"INSERT INTO a VALUES (datetime('now'))\"",
            "q = 'UPDATE a SET b = unixepoch()'",
        )
        self.keeps(
            rule,
            "meshkit.feed.store",
            "q = 'SELECT random_field FROM b ORDER BY a'",
            "'''Uses rng.random() of the caller.'''",
        )

    def test_signatures_have_a_context(self) -> None:
        rule = raw_signatures_are_rare
        for source in ("i._sign_raw(x)", "i._x25519_secret", "getattr(i, '_sign_raw')"):
            self.breaks(rule, "meshkit.feed.store", source)
            self.breaks(rule, "meshkit.testing.x", source)
            self.keeps(rule, "meshkit.feed.message", source)
            self.keeps(rule, "meshkit.shs.handshake", source)
        self.keeps(rule, "meshkit.feed.store", "i.sign(context, x)")

    def test_no_error_is_swallowed(self) -> None:
        rule = errors_are_not_swallowed
        self.breaks(
            rule,
            "meshkit.feed.store",
            "try: f()\nexcept: g()",
            "try: f()\nexcept Exception: pass",
            "try: f()\nexcept (KeyError, Exception): pass",
            "for x in y:\n    try: f()\n    except BaseException: continue",
            "from contextlib import suppress\nwith suppress(Exception): f()",
        )
        self.keeps(
            rule,
            "meshkit.feed.store",
            "try: f()\nexcept Exception: _log.failure('x')",
            "try: f()\nexcept KeyError: pass",
            "from contextlib import suppress\nwith suppress(OSError): f()",
        )

    def test_every_module_says_what_it_is(self) -> None:
        rule = modules_say_what_they_are
        self.breaks(rule, "meshkit.feed.store", "x = 1", "''", "''' '''")
        self.breaks(rule, "meshkit.feed.util", "'''Useful.'''")
        self.keeps(rule, "meshkit.feed.store", "'''Keeps feeds.'''")
