"""
What is thought of a peer, by what its audits came to.  Pure.

A peer has two scores, each the mean of a Beta distribution with forgetting: good and bad results
are counted, and with each new one all those before count for a little less (Jøsang and Ismail,
"The Beta Reputation System", 2002; as Storj's satellites do it)::

    after a good result   good = f * good + 1    bad = f * bad
    after a bad one       good = f * good        bad = f * bad + 1
    score = good / (good + bad)

The one counts failures; the other, with a shorter memory, answers that say nothing of a share.
A peer whose score falls to the limit is I{refused}: it is given no share.  It may come back once
its score is half-way from the limit to 1: by good results, if it is still audited, or by time, as
only while it is refused what is held against it fades.  Then it is vetted anew.

That a peer is not there is no failure.  It is counted in windows of half a day: the share of
results in which it was there, of each window that has ended, and the mean of these.  While nobody
at all is reached that is counted for nobody, as then it is we who are not there.

What the parameters mean in audits is computed here (L{Rule}), and docs/howto/audits.md says it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil, exp, expm1, log
from typing import Any, Final

from attrs import evolve, field, frozen
from msgspec import Struct

from meshkit.audit.values import ShareOutcome
from meshkit.identity.keys import PublicKey
from meshkit.storage.custody import FULL_WEIGHT, Judgement

__all__ = [
    "MAX_PROBLEM",
    "Beta",
    "Results",
    "Rule",
    "Standing",
    "StandingConfig",
    "Window",
    "judge",
    "recorded",
    "results_of",
]

#: Characters of what was wrong last that are kept.
MAX_PROBLEM: Final = 200

_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR
#: Of the scale on which a score is followed; and what is left out of it.
_MARKS: Final = 400
_NOTHING: Final = 1e-9
#: Nobody waits for more results than these.
_NEVER: Final = 10_000_000


@frozen
class Beta:
    """
    Results, counted with forgetting.

    @ivar good: 0 or more.
    @ivar bad: 0 or more; one of them is more than 0.
    """

    good: float
    bad: float

    @property
    def score(self) -> float:
        """How likely the next result is good: 0 to 1."""
        return self.good / (self.good + self.bad)

    def after(self, forgetting: float, good: int, bad: int) -> Beta:
        """
        In what order they came is not known, so this is the mean of all orders: the results of a
        peer count the same whether they are recorded one by one or by the thousand.

        @param forgetting: what a result counts for once there is another: more than 0, less
            than 1.
        @param good: how many good results there were.
        @param bad: how many bad ones.
        """
        count = good + bad
        if not count:
            return self
        # The closed forms of n steps: f^n, and 1 + f + ... + f^(n-1).  A bad result is as likely
        # at each place among them, so of that sum the bad ones have their part.
        kept = exp(count * log(forgetting))
        each = -expm1(count * log(forgetting)) / (1 - forgetting) / count
        return Beta(kept * self.good + each * good, kept * self.bad + each * bad)

    def faded(self, kept: float, start: float) -> Beta:
        """
        @param kept: 0 to 1: how much of what was there is left.
        @param start: good results that a peer is given in advance, which take its place.
        """
        return Beta(start + (self.good - start) * kept, self.bad * kept)


@frozen
class Rule:
    """
    How one of the scores is kept, and what that means.

    @ivar forgetting: what a result counts for once there is another: more than 0, less than 1.
    @ivar start: good results that a peer is given in advance.
    @ivar refuse_at: a peer with this score or a lower one is refused: more than 0, less than 1.
    @ivar fade_days: in how many days half of what is held against a refused peer fades.
    """

    forgetting: float
    start: float
    refuse_at: float
    fade_days: float

    @property
    def readmit_at(self) -> float:
        """The score with which a peer that is refused is so no more."""
        return (1 + self.refuse_at) / 2

    @property
    def memory(self) -> float:
        """How many of the last results a score is made of, as good as."""
        return 1 / (1 - self.forgetting)

    @property
    def new(self) -> Beta:
        """Of a peer that has never been audited."""
        return Beta(self.start, 0.0)

    @property
    def proven(self) -> Beta:
        """Of a peer with a long row of good results."""
        return Beta(self.memory, 0.0)

    @property
    def tolerated(self) -> float:
        """
        The share of bad results that a peer may have for ever, if they are spread evenly: more
        than 0, less than 1.  If they come at random it is less: see L{refusing_chance}.
        """
        return 1 - self.refuse_at

    @property
    def half_forgotten(self) -> int:
        """After so many other results one counts for half, or less."""
        return ceil(log(0.5) / log(self.forgetting))

    def after(self, beta: Beta, good: int, bad: int) -> Beta:
        """See L{Beta.after}."""
        return beta.after(self.forgetting, good, bad)

    def faded(self, beta: Beta, seconds: float) -> Beta:
        """@param seconds: for which the peer has been refused, since this was so."""
        return beta.faded(0.5 ** (max(0.0, seconds) / (self.fade_days * _DAY)), self.start)

    def refusing_run(self, beta: Beta) -> int:
        """@return: how many bad results in a row have a peer refused."""
        return _first(lambda run: self.after(beta, 0, run).score <= self.refuse_at)

    def refusing_results(self, rate: float) -> int | None:
        """
        @param rate: of all results, how many are bad: 0 to 1.
        @return: after how many results a peer that had a long row of good ones is refused, if
            the bad ones are spread evenly; L{None} if it never is.
        """
        if rate <= self.tolerated:
            return None
        # After n results the bad part of its score is rate * (1 - f^n).
        return ceil(log(1 - self.tolerated / rate) / log(self.forgetting))

    def refusing_chance(self, rate: float, results: int) -> float:
        """
        @param rate: of all results, how many are bad, 0 to 1; they come at random.
        @param results: recorded one by one.
        @return: how likely it is that a peer that had a long row of good results before is
            refused by then: 0 to 1, to one part in a hundred.
        """
        # How much of its score is bad goes from b to f * b, or to that and 1 - f.  Where it may
        # be is followed on a scale up to the limit, and what falls between two marks is split.
        after = [self.forgetting * mark for mark in range(_MARKS)]
        step = (1 - self.forgetting) / self.tolerated * _MARKS
        likely = [1.0] + [0.0] * (_MARKS - 1)
        refused = 0.0
        for _ in range(results):
            following = [0.0] * (_MARKS + 1)
            for there, chance in zip(after, likely, strict=True):
                if chance < _NOTHING:
                    continue
                mark = int(there)
                split = (1 - rate) * chance * (there - mark)
                following[mark] += (1 - rate) * chance - split
                following[mark + 1] += split
                place = there + step
                if place >= _MARKS:
                    refused += rate * chance
                else:
                    mark = int(place)
                    split = rate * chance * (place - mark)
                    following[mark] += rate * chance - split
                    following[mark + 1] += split
            refused += following.pop()
            likely = following
        return refused

    def returning_run(self, beta: Beta) -> int:
        """@return: how many good results in a row bring a refused peer back, without fading."""
        return _first(lambda run: self.after(beta, run, 0).score >= self.readmit_at)

    def returning_days(self, beta: Beta) -> int:
        """@return: after how many days without any result a refused peer may come back."""
        return _first(lambda days: self.faded(beta, days * _DAY).score >= self.readmit_at)


def _first(holds: Callable[[int], bool]) -> int:
    """@return: the least whole number for which something holds that goes on holding."""
    return bisect_left(range(_NEVER), True, key=holds)


def _between(low: float, high: float) -> Any:
    """Within which a number lies, without its ends."""

    def check(_instance: object, attribute: Any, value: float) -> None:
        if not low < value < high:
            raise ValueError(
                f"{attribute.name} is more than {low:g} and less than {high:g}, not {value}"
            )

    return check


@frozen
class StandingConfig:
    """
    How peers are judged.

    @ivar forgetting: what the result of an audit counts for once there is another.
    @ivar start: good results that a peer is given in advance.
    @ivar refuse_at: a peer with this score or a lower one is refused.
    @ivar fade_days: in how many days half of what is held against a refused peer fades.
    @ivar unknown_forgetting: as C{forgetting}, of answers that say nothing of a share.
    @ivar unknown_start: as C{start}, likewise.
    @ivar unknown_refuse_at: as C{refuse_at}, likewise.
    @ivar unknown_fade_days: as C{fade_days}, likewise.
    @ivar window_hours: how long a window is, in which it is counted how often a peer is there.
    @ivar window_days: for how many days windows count.
    @ivar online_refuse_at: a peer that is there as seldom as that, or less often, is refused.
    @ivar online_grace_days: not before there are windows of so many days.
    @ivar vetting_audits: good results after which a new peer counts fully.
    @ivar vetting_days: and days since its first audit.
    @ivar vetting_weight: what it weighs until then: 1 to L{FULL_WEIGHT}.
    """

    forgetting: float = field(default=0.99, validator=_between(0, 1))
    start: float = field(default=100.0, validator=_between(0, 1e6))
    refuse_at: float = field(default=0.95, validator=_between(0, 1))
    fade_days: float = field(default=30.0, validator=_between(0, 1e4))
    unknown_forgetting: float = field(default=0.95, validator=_between(0, 1))
    unknown_start: float = field(default=20.0, validator=_between(0, 1e6))
    unknown_refuse_at: float = field(default=0.6, validator=_between(0, 1))
    unknown_fade_days: float = field(default=3.0, validator=_between(0, 1e4))
    window_hours: int = field(default=12, validator=_between(0, 169))
    window_days: int = field(default=30, validator=_between(0, 91))
    online_refuse_at: float = field(default=0.6, validator=_between(0, 1))
    online_grace_days: int = field(default=7, validator=_between(-1, 91))
    vetting_audits: int = field(default=50, validator=_between(-1, 1e6))
    vetting_days: int = field(default=7, validator=_between(-1, 366))
    vetting_weight: int = field(default=250, validator=_between(0, FULL_WEIGHT + 1))

    @property
    def audits(self) -> Rule:
        """Of successes and failures."""
        return Rule(self.forgetting, self.start, self.refuse_at, self.fade_days)

    @property
    def answers(self) -> Rule:
        """Of successes, and answers that say nothing of a share."""
        return Rule(
            self.unknown_forgetting,
            self.unknown_start,
            self.unknown_refuse_at,
            self.unknown_fade_days,
        )

    @property
    def windows(self) -> int:
        """How many windows count."""
        return max(1, self.window_days * _DAY // (self.window_hours * _HOUR))

    @property
    def grace_windows(self) -> int:
        """With how many windows a peer is judged by them: 1 to L{windows}."""
        wanted = ceil(self.online_grace_days * _DAY / (self.window_hours * _HOUR))
        return min(max(1, wanted), self.windows)

    def window_at(self, now: int) -> int:
        """@return: number of the window that is open now."""
        return now // (self.window_hours * _HOUR)


@frozen
class Results:
    """
    What the audits of some shares of one peer came to, that were recorded at once.

    @ivar successes: see L{meshkit.audit.values.Outcome}, as of all others.
    @ivar blameless: failures that are not held against the peer; C{failures} are the others.
    @ivar problem: what was wrong, of the first that was no success.
    @ivar excused: nobody else was reached either: that it was not there counts in no window.
    """

    successes: int = 0
    failures: int = 0
    blameless: int = 0
    unknowns: int = 0
    contained: int = 0
    offlines: int = 0
    problem: str | None = None
    excused: bool = False

    @property
    def online(self) -> int:
        """In how many of them the peer was there."""
        return self.successes + self.failures + self.blameless + self.unknowns + self.contained


def results_of(outcomes: Iterable[ShareOutcome]) -> dict[PublicKey, Results]:
    """@return: what there is of each peer, in the order in which they first come."""
    grouped: dict[PublicKey, list[ShareOutcome]] = {}
    for each in outcomes:
        grouped.setdefault(each.peer, []).append(each)
    return {peer: _results(found) for peer, found in grouped.items()}


def _results(outcomes: list[ShareOutcome]) -> Results:
    counts = Counter(
        "blameless" if each.outcome == "failure" and each.blameless else each.outcome
        for each in outcomes
    )
    problems = [each.reason for each in outcomes if each.reason is not None]
    return Results(
        successes=counts["success"],
        failures=counts["failure"],
        blameless=counts["blameless"],
        unknowns=counts["unknown"],
        contained=counts["contained"],
        offlines=counts["offline"],
        problem=problems[0][:MAX_PROBLEM] if problems else None,
    )


class Window(Struct, array_like=True, frozen=True, gc=False):
    """
    How often a peer was there, in some hours.  There may be many.

    @ivar number: of the window; they count up from 1970.
    @ivar online: results in which it was there.
    @ivar total: all of them, at least 1.
    """

    number: int
    online: int
    total: int


@frozen
class Standing:
    """
    What is known of a peer.  Times are seconds of Unix time.

    @ivar since: its first audit.
    @ivar updated: its last one.
    @ivar audits: its successes and failures.
    @ivar answers: its successes, and answers that said nothing of a share.
    @ivar windows: when it was there, the oldest first.
    @ivar failing: since when it is refused for its failures.
    @ivar confusing: since when it is refused for answers that say nothing.
    @ivar vetted: successes since its vetting began.
    @ivar vetting_since: when that was.
    @ivar offline_since: since when it was not there; L{None} if it was, when it was asked last.
    @ivar successes: how many there were in all, with nothing forgotten; the others likewise.
    @ivar last_success: when the last one was; the other likewise.
    @ivar problem: what was wrong when something was wrong last.
    """

    since: int
    updated: int
    audits: Beta
    answers: Beta
    windows: tuple[Window, ...] = ()
    failing: int | None = None
    confusing: int | None = None
    vetted: int = 0
    vetting_since: int = 0
    offline_since: int | None = None
    successes: int = 0
    failures: int = 0
    unknowns: int = 0
    offlines: int = 0
    last_success: int | None = None
    last_failure: int | None = None
    problem: str | None = None

    @classmethod
    def new(cls, now: int, config: StandingConfig) -> Standing:
        """@return: of a peer that has not been audited."""
        return cls(now, now, config.audits.new, config.answers.new, vetting_since=now)

    def forgiven(self, now: int, config: StandingConfig) -> Standing:
        """
        @return: the same peer, as if it were new.  How many results there were is not forgotten.
        """
        return evolve(
            self,
            updated=now,
            audits=config.audits.new,
            answers=config.answers.new,
            windows=(),
            failing=None,
            confusing=None,
            vetted=0,
            vetting_since=now,
        )

    def at(self, now: int, config: StandingConfig) -> Standing:
        """
        @return: as it is now, if nothing was recorded since.  A clock that was set back makes
            no difference until it has caught up.
        """
        seconds = max(0, now - self.updated)
        audits, failing = _faded(config.audits, self.audits, self.failing, seconds)
        answers, confusing = _faded(config.answers, self.answers, self.confusing, seconds)
        open_now = config.window_at(now)
        windows = tuple(
            each for each in self.windows if open_now - config.windows <= each.number <= open_now
        )
        return evolve(
            self,
            audits=audits,
            answers=answers,
            failing=failing,
            confusing=confusing,
            windows=windows,
        )

    def online(self, now: int, config: StandingConfig) -> float | None:
        """
        @return: how often it is there, 0 to 1, by the windows that have ended; L{None} if there
            are not enough of them.
        """
        if len(self.windows) < config.grace_windows:
            return None
        end = config.window_at(now)
        begin = end - config.windows
        shares = [each.online / each.total for each in self.windows if begin <= each.number < end]
        return sum(shares) / len(shares) if len(shares) >= config.grace_windows else None

    def is_vetted(self, now: int, config: StandingConfig) -> bool:
        """Has it been asked often enough, and for long enough, to count fully?"""
        return (
            self.vetted >= config.vetting_audits
            and now - self.vetting_since >= config.vetting_days * _DAY
        )


def _faded(rule: Rule, beta: Beta, since: int | None, seconds: int) -> tuple[Beta, int | None]:
    if since is None:
        return beta, None
    beta = rule.faded(beta, seconds)
    return beta, since if beta.score < rule.readmit_at else None


def recorded(
    standing: Standing | None, results: Results, now: int, config: StandingConfig
) -> Standing:
    """
    What is thought of a peer after more results.

    Those of one call are one step: only what it comes to in the end decides whether the peer is
    refused.

    @param standing: what was known of it; L{None} if it was never audited.
    @param now: seconds of Unix time.
    """
    before = Standing.new(now, config) if standing is None else standing.at(now, config)
    audits = config.audits.after(before.audits, results.successes, results.failures)
    answers = config.answers.after(before.answers, results.successes, results.unknowns)
    failing = _refused(config.audits, audits, before.failing, now)
    begins_anew = failing is not None and before.failing is None
    offline_since = before.offline_since
    if results.online:
        offline_since = None
    elif results.offlines and offline_since is None:
        offline_since = now
    return evolve(
        before,
        updated=now,
        audits=audits,
        answers=answers,
        windows=_counted(before.windows, results, config.window_at(now)),
        failing=failing,
        confusing=_refused(config.answers, answers, before.confusing, now),
        vetted=0 if begins_anew else before.vetted + results.successes,
        # A clock that was set back must not keep a peer waiting until it has caught up.
        vetting_since=now if begins_anew else min(before.vetting_since, now),
        offline_since=offline_since,
        successes=before.successes + results.successes,
        failures=before.failures + results.failures,
        unknowns=before.unknowns + results.unknowns,
        offlines=before.offlines + results.offlines,
        last_success=now if results.successes else before.last_success,
        last_failure=now if results.failures else before.last_failure,
        problem=before.problem if results.problem is None else results.problem,
    )


def _refused(rule: Rule, beta: Beta, since: int | None, now: int) -> int | None:
    if since is None:
        return now if beta.score <= rule.refuse_at else None
    return since if beta.score < rule.readmit_at else None


def _counted(windows: tuple[Window, ...], results: Results, number: int) -> tuple[Window, ...]:
    total = results.online + (0 if results.excused else results.offlines)
    if not total:
        return windows
    *rest, last = windows or (Window(number, 0, 0),)
    if last.number != number:
        rest, last = [*rest, last], Window(number, 0, 0)
    return *rest, Window(number, last.online + results.online, last.total + total)


def judge(
    standing: Standing | None, now: int, config: StandingConfig, *, owes: int = 0
) -> Judgement:
    """
    @param standing: what is known of a peer; L{None} if it was never audited.
    @param now: seconds of Unix time.
    @param owes: audits that it knew of and did not answer.
    @return: what it is to get.  Its weight is halved when half of what it may fail is used up,
        again when half of the rest is, and a third time; it hardly ever changes, so shares are
        looked for where they were put.
    """
    if owes:
        return Judgement(
            0, "it knew what it was asked in an audit, and has not answered", passing=True
        )
    if standing is None:
        standing = Standing.new(now, config)
    elif standing.failing is not None or standing.confusing is not None:
        standing = standing.at(now, config)
    refused = _refusal(standing, now, config)
    if refused is not None:
        return Judgement(0, refused)
    weight = FULL_WEIGHT if standing.is_vetted(now, config) else config.vetting_weight
    used = (1 - standing.audits.score) / config.audits.tolerated
    halvings = sum(used > limit for limit in (1 / 2, 3 / 4, 7 / 8))
    return Judgement(max(1, weight >> halvings))


def _refusal(standing: Standing, now: int, config: StandingConfig) -> str | None:
    if standing.failing is not None:
        return (
            f"too many of its audits failed: its score is {standing.audits.score:.3f}, and it "
            f"may come back with {config.audits.readmit_at:.3f}"
        )
    if standing.confusing is not None:
        return (
            f"too many of its answers say nothing of what it keeps: its score is "
            f"{standing.answers.score:.2f}, and it may come back with "
            f"{config.answers.readmit_at:.2f}"
        )
    online = standing.online(now, config)
    if online is not None and online <= config.online_refuse_at:
        return (
            f"it is there too seldom: {online:.0%} of the last {config.window_days} days, and "
            f"more than {config.online_refuse_at:.0%} are wanted"
        )
    return None
