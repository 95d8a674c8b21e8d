"""
The rules that pytest keeps for the whole suite.

  - A test of the quick tier takes no longer than L{SECONDS}, less the time in which
    other processes had the processor; a machine that is slow may say
    C{MESHKIT_TEST_SECONDS=10}.
  - A test is skipped only for a reason that stands in C{allowed_skips.txt}.  A suite
    that skips more and more stays green and tests less and less.
  - What stands in C{longest.txt} is run first, so that at the end no worker is left alone
    with a long file while the others are idle.
  - An operation of ours that is called at a door answers and refuses as it was declared
    (L{tests.declared}).
  - C{--failures-file PATH} tells C{.ci/run} what failed.
  - What a test says as its property C{figures} is printed at the end.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from tests import PROFILE, declared

HERE: Final = Path(__file__).parent

#: Folders whose tests may take longer or need more than Python; also in the Makefile.
SLOW: Final = ("process", "interop", "netns", "sim", "browser", "slow")

#: How long the body of a quick test may take.
SECONDS: Final = 2.0

_limit = pytest.StashKey[float]()
_in_line = pytest.StashKey[float]()
_reasons = pytest.StashKey[frozenset[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--failures-file",
        metavar="PATH",
        help="append to PATH what failed: 'start', 'fail ID' and 'end STATUS', one a line",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "fuller: in test-all there is more of it, as there is of all with the mark hypothesis",
    )
    declared.watch()
    config.stash[_limit] = _seconds(os.environ.get("MESHKIT_TEST_SECONDS"))
    config.stash[_reasons] = frozenset(
        lines_of((HERE / "allowed_skips.txt").read_text(encoding="utf-8"))
    )
    path = config.getoption("--failures-file")
    # Under xdist the workers report to one controller, which alone writes.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresFile(Path(path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order counts under xdist, too, as long as C{--no-loadscope-reorder} is given."""
    longest = lines_of((HERE / "longest.txt").read_text(encoding="utf-8"))
    places = {HERE / name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    before = _seconds_in_line()
    try:
        result = yield
        if declared.problems:
            pytest.fail("\n".join(declared.problems), pytrace=False)
        return result
    finally:
        declared.problems.clear()
        item.stash[_in_line] = _seconds_in_line() - before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _check_skip(report, item.config)
    elif report.when == "call" and report.passed and _is_quick(item.path):
        limit = item.config.stash[_limit]
        # With the many examples of the other profiles a test may well take longer.
        taken = report.duration - item.stash.get(_in_line, 0.0)
        if PROFILE == "dev" and taken > limit:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {taken:.1f} s, and a test may take {limit:g} s: "
                "make it smaller, or move it to tests/slow/ (MESHKIT_TEST_SECONDS raises "
                "the limit on a slow machine)"
            )
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _check_skip(report, collector.config)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "figures" and report.when == "call":
                terminalreporter.write_sep("-", report.nodeid)
                terminalreporter.write_line(str(value))


def _check_skip(report: Any, config: pytest.Config) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ").strip()
    if reason not in config.stash[_reasons]:
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped: {reason!r} is not in tests/allowed_skips.txt"
        )


def _seconds_in_line() -> float:
    """
    How long this process was ready to run while others were running.  Without it a busy
    machine fails good tests; without the rest of the clock a test could sleep.
    """
    try:
        # Second field: nanoseconds on the run queue (Linux, sched-stats.txt).
        return int(Path("/proc/self/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _is_quick(path: Path) -> bool:
    try:
        return path.relative_to(HERE).parts[0] not in SLOW
    except ValueError:
        return False


def _seconds(text: str | None) -> float:
    if not text:
        return SECONDS
    try:
        return float(text)
    except ValueError:
        raise pytest.UsageError(
            f"MESHKIT_TEST_SECONDS={text!r} is not a number of seconds"
        ) from None


def lines_of(text: str) -> list[str]:
    """Without the empty ones, and those that are remarks."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class FailuresFile:
    """
    Writes what failed, and that the session came to its end.

    A session that is killed leaves a C{start} without C{end}, so that what it had
    written until then is not taken for the whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def pytest_sessionstart(self) -> None:
        self._write("start")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._write(f"fail {report.nodeid}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(f"fail {report.nodeid}")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(f"end {int(exitstatus)}")
