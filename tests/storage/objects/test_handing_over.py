"""
Whole nodes on simulated machines: an owner, somebody to whom he hands an object, and storage
peers, who find each other in the hash table and talk over the real wire.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import shares_of
from meshkit.sim.running import Run
from meshkit.sim.schedule import Action, Member, Plan

KEEPERS = ("bob", "cat", "dan", "eve", "fay")
SECONDS = 110.0


def plan() -> Plan:
    """Ada stores at five others, and zoe looks after what she hands over."""
    peers = ", ".join(f'"{{address:{each}}}"' for each in KEEPERS)
    storage = f"[storage]\npeers = [{peers}]\nreserve_seconds = 5\nrequest_seconds = 5\n"
    keeper = "[keeper]\nmax_storage = 10000000\n"
    return Plan(
        "",
        1,
        SECONDS,
        20.0,
        members=(
            Member("ada", (), storage),
            Member("zoe", ("ada",), storage),
            *(Member(name, ("ada",), keeper) for name in KEEPERS),
        ),
        actions=(Action.after(2, "put", "ada", file="file", size=40_000, scheme="2+2"),),
    )


class Story(Invariant):
    """
    What people do in a run.

    @ivar told: what they have seen.
    """

    name = "story"

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def begun(self, run: Run) -> None:
        self._run = run
        Deferred.fromCoroutine(self._tell()).addErrback(run.failed, "the story")

    async def _ask(self, who: str, method: str, target: str, body: Any = None) -> Any:
        answer = await self._run.objects._ask(self._run.nodes[who], method, target, body)
        if answer is None or not answer.json["success"]:
            raise AssertionError(f"{who} {method} {target}: {answer and answer.json}")
        return answer.json["data"]

    async def _places(self, who: str, called: str) -> list[str]:
        shown = await self._ask(who, "POST", "/v1/objects/stat", {"object": called})
        return [each["peer"] for each in shown["shares"]]

    async def _repair(self, who: str, called: str) -> Any:
        run = await self._ask(who, "POST", "/v1/objects/repair", {"object": called})
        while True:
            shown = await self._ask(who, "GET", f"/v1/audit/runs/{run['run']}?wait=5")
            if shown["state"] != "running":
                return shown

    def _with_shares(self) -> dict[str, int]:
        found = {name: len(shares_of(node)) for name, node in self._run.nodes.items()}
        return {name: count for name, count in found.items() if count}

    async def _tell(self) -> None:
        run, pause = self._run, self._run.objects._pause
        file = run.objects.files.get("file")
        while file is None or file.state == "putting" or not file.object:
            await pause(2)
            file = run.objects.files.get("file")
        called = file.object
        while (await self._ask("ada", "GET", "/v1/status"))["parts"]["storage"]["publishing"]:
            await pause(10)
        capabilities = await self._ask("ada", "GET", f"/v1/objects/{called}/capabilities")
        told = self.told
        await self._ask("zoe", "POST", "/v1/audit/watched", {"capability": capabilities["repair"]})
        told["watched"] = await self._ask("zoe", "GET", "/v1/audit/watched")
        await pause(5)
        # One peer has lost what it kept, for good.
        before = self._with_shares()
        lost = sorted(before)[0]
        told["before"], told["lost"] = before, lost
        run.nodes[lost].kill()
        await pause(2)
        told["repaired"] = await self._repair("zoe", called)
        told["places"] = await self._places("zoe", called)
        await pause(5)
        # Her own node reads in the hash table where the shares are, before it would repair.
        told["own places before"] = await self._places("ada", called)
        await self._repair("ada", called)
        told["own places"] = await self._places("ada", called)
        told["health"] = await self._ask(
            "ada", "POST", "/v1/objects/check", {"object": called, "depth": "full"}
        )
        fetch = run.objects.fetch("ada", "file")
        assert fetch is not None
        while not fetch.ended:
            await pause(1)
        told["fetched"] = fetch.outcome
        told["shares"] = self._with_shares()
        file.state = "removing"
        await self._ask("ada", "DELETE", f"/v1/objects/{called}")
        await pause(5)
        told["left"] = self._with_shares()
        told["heard"] = await self._repair("zoe", called)
        told["watched in the end"] = await self._ask("zoe", "GET", "/v1/audit/watched")
        told["end"] = True


class HandingOverTests(SynchronousTestCase):
    def test_an_object_is_repaired_by_somebody_else_and_removed_by_its_owner(self) -> None:
        story = Story()
        run = Run(plan(), (lambda: story,), parts=("audit", "keeper", "storage"))
        outcome = run.play()
        told = story.told
        self.assertEqual([*outcome.violations], [])
        self.assertTrue(told["end"])
        lost = run.nodes[told["lost"]].identity.public.text
        repaired = told["repaired"]
        self.assertEqual((repaired["state"], repaired["placed"]), ("done", 1))
        # The owner's node knew nothing of it, and then what the repairer has said.
        self.assertIn(lost, told["own places before"])
        self.assertNotIn(lost, told["places"])
        self.assertEqual(told["own places"], told["places"])
        self.assertEqual((told["health"]["health"], told["fetched"]), ("healthy", "done"))
        self.assertEqual(sum(told["before"].values()), 4)
        self.assertEqual(sum(told["shares"].values()), 5)
        # Only the peer that is away has its share still.
        self.assertEqual(told["left"], {told["lost"]: 1})
        self.assertEqual((len(told["watched"]), told["watched in the end"]), (1, []))
