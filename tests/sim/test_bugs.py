"""
Each mistake of L{tests.sim.bugs} is found by runs that nobody has made for it alone, within
the number of seeds that stands beside it; and the code without it passes the same runs.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.scenarios import SCENARIOS
from tests.sim.bugs.catalogue import BUGS, Bug
from tests.sim.bugs.hunt import PATCHES, ROOT, copy_package, patch_copy, run_seeds
from tests.sim.bugs.patching import PatchError, apply_patch, read_patch

#: Seconds for all runs of one child.
SECONDS: Final = 240.0
#: Children at a time.
AT_A_TIME: Final = 2


class HuntTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="meshkit-bugs-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def hunt(self, bug: Bug) -> tuple[str, list[int]]:
        """@return: what is wrong, or nothing; and the seeds that were tried."""
        where = self.folder / bug.patch
        where.mkdir()
        try:
            patch_copy(bug.patch, where)
        except PatchError as e:
            return f"{bug.name}: {e}", []
        ran = run_seeds(where, bug.scenario, bug.seeds, until_caught=True, timeout=SECONDS)
        shutil.rmtree(where)
        found, tried = ran[-1], [each.seed for each in ran]
        if not found.violations:
            return f"{bug.name}: not found in {len(ran)} runs of {bug.scenario}", tried
        if bug.caught_by not in {text.partition(":")[0] for text in found.violations}:
            what = f"{bug.name}: found, but not by {bug.caught_by}: {found.violations}"
            return what, tried
        print(f"{bug.number} {bug.name}: {bug.scenario} {found.seed}: {found.violations[0]}")
        return "", tried

    def test_each_is_found_and_the_code_without_it_passes_the_same_runs(self) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            hunted = [*pool.map(self.hunt, BUGS)]
        wrong = [what for what, _ in hunted if what]
        tried: dict[str, set[int]] = {}
        for bug, (_, seeds) in zip(BUGS, hunted, strict=True):
            tried.setdefault(bug.scenario, set()).update(seeds)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            wrong += [
                what for what in pool.map(self.look, *zip(*tried.items(), strict=True)) if what
            ]
        self.assertEqual(wrong, [], "\n".join(wrong))

    def look(self, scenario: str, seeds: set[int]) -> str:
        """@return: what is wrong with the code as it is, or nothing."""
        whole = self.folder / f"whole-{scenario}"
        copy_package(whole)
        ran = run_seeds(whole, scenario, sorted(seeds), timeout=SECONDS)
        self.assertEqual(len(ran), len(seeds))
        bad = [f"{scenario} {each.seed}: {each.violations}" for each in ran if each.violations]
        return "\n".join(bad)


class CatalogueTests(SynchronousTestCase):
    def test_there_is_a_patch_for_each(self) -> None:
        self.assertEqual(len({bug.name for bug in BUGS}), 31)
        self.assertEqual([bug.number for bug in BUGS], [*range(1, 32)])
        self.assertEqual(
            sorted(bug.patch for bug in BUGS), sorted(path.name for path in PATCHES.glob("*.patch"))
        )

    def test_each_fits_the_code_and_changes_what_the_list_says(self) -> None:
        for bug in BUGS:
            text = (PATCHES / bug.patch).read_text(encoding="utf-8")
            self.assertEqual(sorted(read_patch(text)), [f"meshkit/{path}" for path in bug.files])
            with tempfile.TemporaryDirectory() as folder:
                for path in read_patch(text):
                    copy = Path(folder, path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes((ROOT / path).read_bytes())
                apply_patch(text, Path(folder))
                for path in read_patch(text):
                    changed = Path(folder, path).read_text(encoding="utf-8")
                    # It can still be imported, as far as that can be seen from here.
                    compile(changed, path, "exec")

    def test_each_is_looked_for_by_a_scenario_that_is_there(self) -> None:
        for bug in BUGS:
            self.assertIn(bug.scenario, SCENARIOS, bug.name)

    def test_what_found_it_last_is_tried_first_and_then_all_others(self) -> None:
        for bug in BUGS:
            first, *others = bug.seeds
            self.assertEqual(first, bug.seen)
            rest = [*range(bug.first, bug.first + bug.within)]
            self.assertEqual(others, [seed for seed in rest if seed != bug.seen], bug.name)
            self.assertIn(bug.seen, rest, bug.name)

    def test_most_of_them_leave_all_other_tests_green(self) -> None:
        self.assertGreaterEqual(sum(bug.green for bug in BUGS), 12)

    def test_the_manual_has_the_list(self) -> None:
        manual = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
        missing = [bug.number for bug in BUGS if f"\n{bug.line}" not in manual]
        self.assertEqual(missing, [])


_WHOLE: Final = "one\ntwo\n\nthree\none\n"


class PatchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "text").write_text(_WHOLE)

    def apply(self, change: str, counts: str = "-1,3 +1,3") -> str:
        text = f"--- a/text\n+++ b/text\n@@ {counts} @@\n{change}"
        apply_patch(text, self.folder)
        return (self.folder / "text").read_text()

    def test_lines_are_changed_where_they_are(self) -> None:
        self.assertEqual(self.apply(" one\n-two\n+2\n \n"), "one\n2\n\nthree\none\n")

    def test_an_empty_line_needs_no_space(self) -> None:
        self.assertEqual(self.apply(" one\n-two\n+2\n\n"), "one\n2\n\nthree\none\n")

    def test_what_fits_nowhere_or_twice_changes_nothing(self) -> None:
        self.assertRaises(PatchError, self.apply, " one\n-2\n+two\n \n")
        self.assertRaises(PatchError, self.apply, "-one\n+1\n", "-1 +1")
        self.assertRaises(PatchError, self.apply, "-wo\n+2\n", "-1 +1")
        self.assertEqual((self.folder / "text").read_text(), _WHOLE)

    def test_what_is_no_patch_is_refused(self) -> None:
        cut = partial(self.apply, " one\n-two\n")
        for bad in (
            cut,
            partial(self.apply, " one\n-two\n*2\n \n"),
            partial(apply_patch, "", self.folder),
            partial(apply_patch, "--- a/text\n+++ b/text\n", self.folder),
            partial(apply_patch, "--- a/text\n+++ b/other\n@@ -1 +1 @@\n", self.folder),
            partial(apply_patch, "# a comment\n", self.folder),
        ):
            self.assertRaises(PatchError, bad)
