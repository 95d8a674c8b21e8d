"""What C{docs/howto/audits.md} says in figures is what the code computes."""

from __future__ import annotations

import re
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import receipts, standings
from meshkit.audit.auditor import AuditorLimits
from meshkit.audit.challenge import SAMPLED, chance_to_catch
from meshkit.audit.config import Config
from meshkit.audit.standing import Rule, StandingConfig

PAGE: Final = Path(__file__).parents[2] / "docs" / "howto" / "audits.md"
LOST: Final = (0.01, 0.05, 0.5)
DAYS: Final = 30
_DAY: Final = 86_400


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def of_one_share(config: Config) -> list[str]:
    """@return: the table of what is found of a share of which leaves are lost."""
    a_day = _DAY / config.every
    rows = []
    for lost in LOST:
        audits = next(n for n in count(1) if chance_to_catch(lost, n) >= 0.99)
        rows.append(
            row(
                percent(lost, 0),
                percent(chance_to_catch(lost)),
                percent(chance_to_catch(lost, int(DAYS * a_day))),
                f"{audits / a_day:g} days",
            )
        )
    return rows


def of_all_shares() -> list[str]:
    """@return: the table of what is found of a peer that has lost leaves of all its shares."""
    return [
        row(
            percent(lost, 0),
            percent(chance_to_catch(lost, 10)),
            percent(chance_to_catch(lost, 100)),
        )
        for lost in LOST
    ]


def refused_by(rule: Rule, bad: int) -> int:
    """@return: days until a peer comes back that had so many bad results in a row."""
    return rule.returning_days(rule.after(rule.proven, 0, bad))


@cache
def meanings(config: StandingConfig) -> dict[str, tuple[str, str]]:
    """@return: what each setting is, and what that means."""
    audits, answers = config.audits, config.answers
    run = audits.refusing_run(audits.proven)
    return {
        "score_forgetting": (
            f"{config.forgetting:g}",
            f"a result counts for half when {audits.half_forgotten} others have come, and a "
            f"score is made of the last {audits.memory:.0f} or so",
        ),
        "score_start": (
            f"{config.start:g}",
            f"a new peer is refused after {audits.refusing_run(audits.new)} failures in a row, "
            f"one with a long row of good results after {run}",
        ),
        "score_refuse_at": (
            f"{config.refuse_at:g}",
            f"with 10 % failures a peer is refused after {audits.refusing_results(0.1)} audits, "
            f"with 50 % after {audits.refusing_results(0.5)}; if they come at random, 1 % within "
            f"1,000 audits with a chance of {percent(audits.refusing_chance(0.01, 1_000))}, 2 % "
            f"of {percent(audits.refusing_chance(0.02, 1_000), 0)}, 5 % of "
            f"{percent(audits.refusing_chance(0.05, 1_000), 0)}",
        ),
        "score_fade_days": (
            f"{config.fade_days:g}",
            f"refused after {run} failures and not asked any more, it comes back after "
            f"{refused_by(audits, run)} days; when all 1,000 of its shares failed, after "
            f"{refused_by(audits, 1_000)}",
        ),
        "unknown_forgetting": (
            f"{config.unknown_forgetting:g}",
            f"of answers that say nothing one counts for half when {answers.half_forgotten} "
            f"others have come",
        ),
        "unknown_start": (
            f"{config.unknown_start:g}",
            f"a new peer is refused after {answers.refusing_run(answers.new)} of them in a row, "
            f"one with a long row of good results after {answers.refusing_run(answers.proven)}",
        ),
        "unknown_refuse_at": (
            f"{config.unknown_refuse_at:g}",
            f"with 50 % of them a peer is refused after {answers.refusing_results(0.5)} answers",
        ),
        "unknown_fade_days": (
            f"{config.unknown_fade_days:g}",
            f"refused and not asked any more, it comes back after "
            f"{refused_by(answers, answers.refusing_run(answers.proven))} days",
        ),
        "online_window_hours": (
            f"{config.window_hours}",
            "how often it is there is counted in windows, and each counts the same",
        ),
        "online_window_days": (
            f"{config.window_days}",
            f"the last {config.windows} windows count",
        ),
        "online_refuse_at": (
            f"{config.online_refuse_at:g}",
            f"a peer that is there {percent(config.online_refuse_at, 0)} of the time or less is "
            f"refused",
        ),
        "online_grace_days": (
            f"{config.online_grace_days}",
            f"not before {config.grace_windows} windows have ended in which it was asked for",
        ),
        "vetting_audits": (
            f"{config.vetting_audits}",
            f"good results after which a new peer counts fully: {config.vetting_audits} days "
            f"with one share, {-(-config.vetting_audits // 10)} with 10",
        ),
        "vetting_days": (
            f"{config.vetting_days}",
            f"but not before {config.vetting_days} days",
        ),
        "vetting_weight": (
            f"{config.vetting_weight}",
            f"until then it weighs {percent(config.vetting_weight / 1_000, 0)}",
        ),
    }


class AuditsPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        text = PAGE.read_text("utf-8")
        self.lines = text.splitlines()
        self.prose = " ".join(text.split())

    def test_the_chances_are_those_that_are_computed(self) -> None:
        self.assertEqual(SAMPLED, 4)
        wanted = [*of_one_share(Config()), *of_all_shares()]
        found = [line for line in self.lines if re.match(r"\| \d+ % \|", line)]
        self.assertEqual(found, wanted)

    def test_each_setting_is_explained_as_it_works_out(self) -> None:
        wanted = [
            row(f"`audit.{name}`", default, text)
            for name, (default, text) in meanings(Config().standing()).items()
        ]
        found = [line for line in self.lines if line.startswith("| `audit.")]
        self.assertEqual(found, wanted)

    def test_no_setting_of_what_is_thought_of_peers_is_left_out(self) -> None:
        prefixes = ("score_", "unknown_", "online_", "vetting_")
        declared = [name for name in Config.__struct_fields__ if name.startswith(prefixes)]
        self.assertEqual(sorted(meanings(StandingConfig())), sorted(declared))
        self.assertEqual(Config().standing(), StandingConfig())

    def test_the_ways_back_are_as_long_as_it_says(self) -> None:
        audits = StandingConfig().audits
        run = audits.refusing_run(audits.proven)
        returning = audits.returning_run(audits.after(audits.proven, 0, run))
        self.assertIn(f"half-way from the limit to 1, {audits.readmit_at:g},", self.prose)
        self.assertIn(
            f"after {run} failures in a row, {returning} good results in a row.", self.prose
        )

    def test_the_limits_are_those_of_the_code(self) -> None:
        limits = AuditorLimits()
        self.assertEqual((Config().offline_grace, Config().every), (4 * 3_600, _DAY))
        self.assertEqual((limits.tries, limits.grace), (3, 2.0))
        for said in (
            "`audit.offline_grace`, four hours",
            "Each share is asked about once a day (`audit.every`)",
            "two times its usual time for an answer of that length, and two seconds",
            f"After three tries, or {limits.contained_seconds / 3_600:.0f} hours,",
            f"At most {standings.MAX_PEERS:,} peers are remembered",
            f"the last {receipts.MAX_RECEIPTS:,} receipts, and at most "
            f"{receipts.MAX_BYTES // 2**20} MiB of them",
            f"the last {receipts.MAX_FAILED_EACH} failures are kept",
        ):
            self.assertIn(said, self.prose)
