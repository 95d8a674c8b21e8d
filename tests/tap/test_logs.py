"""Whoever runs a daemon finds its log where, and in the form, that was asked for."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from typing import Any
from unittest import mock

from twisted.application.app import ServerOptions
from twisted.application.service import Application, MultiService, Service
from twisted.application.twist._options import TwistOptions
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import syslog
from twisted.scripts._twistd_unix import ServerOptions as TwistdOptions
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.logs import Redactor
from meshkit.tap.failing import Daemon
from meshkit.tap.logs import OLD_FILES, LogChoice, set_up
from tests.runtime.support import scratch


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self) -> bool:
        return True


class Threads(Clock):
    """A reactor for signal handlers."""

    def callFromThread(self, call: Any, *args: Any) -> None:
        call(*args)


def choice(form: Any = "auto", level: Any = None) -> LogChoice:
    return LogChoice(form, level, Redactor())


def is_json(text: str) -> bool:
    return text.startswith("{")


class LogCase(SynchronousTestCase):
    def say(self, observer: Any, level: LogLevel = LogLevel.info, text: str = "said") -> None:
        Logger(namespace="here", observer=observer).emit(level, "{text}", text=text)


class ObserverTests(LogCase):
    def said(self, out: io.StringIO, chosen: LogChoice, **how: Any) -> str:
        self.say(chosen.observer(out, **how))
        return out.getvalue()

    def test_auto_is_text_for_a_terminal_and_json_for_anything_else(self) -> None:
        self.assertTrue(is_json(self.said(io.StringIO(), choice())))
        self.assertFalse(is_json(self.said(Terminal(), choice())))

    def test_auto_is_what_the_runner_says_if_it_says_something(self) -> None:
        self.assertFalse(is_json(self.said(io.StringIO(), choice(), auto="text")))
        self.assertTrue(is_json(self.said(Terminal(), choice(), auto="json")))

    def test_a_form_that_was_chosen_is_the_form(self) -> None:
        self.assertFalse(is_json(self.said(io.StringIO(), choice("text"), auto="json")))
        self.assertTrue(is_json(self.said(Terminal(), choice("json"), auto="text")))

    def test_what_is_less_important_is_left_out(self) -> None:
        for level, count in ((None, 4), ("debug", 5), ("warn", 3), ("critical", 1)):
            out = io.StringIO()
            observer = choice("json", level).observer(out)
            for each in LogLevel.iterconstants():
                self.say(observer, each)
            self.assertEqual(len(out.getvalue().splitlines()), count, level)

    def test_bytes_are_written_where_a_file_takes_bytes(self) -> None:
        out = io.BytesIO()
        self.say(choice("json").observer(out), text="gr\u00fc\u00df")
        self.assertEqual(json.loads(out.getvalue())["message"], "gr\u00fc\u00df")


class TwistdTests(LogCase):
    def setUp(self) -> None:
        self.clock = Threads()
        self.folder = scratch(self)
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def options(self, *arguments: str) -> Any:
        options = TwistdOptions()
        # Without a command, which would bring a daemon.
        with mock.patch.object(TwistdOptions, "subCommands", []):
            options.parseOptions([*arguments])
        return options

    def component(self, chosen: LogChoice, *arguments: str) -> Any:
        application = Application("x")
        daemon = Daemon(
            "x",
            self.clock,
            lambda _: Service(),
            set_up(self.options(*arguments), chosen, self.clock),
        )
        self.addCleanup(daemon._release_shell)
        daemon.setServiceParent(application)
        return application.getComponent(ILogObserver, None)

    def test_in_the_foreground_the_log_goes_to_the_standard_output(self) -> None:
        for form, json_expected in (("auto", True), ("text", False)):
            out = io.StringIO()
            self.patch(sys, "stdout", out)
            self.say(self.component(choice(form), "-n"))
            self.assertEqual(is_json(out.getvalue()), json_expected)

    def test_a_file_is_written_and_turned_over_at_a_signal(self) -> None:
        path = f"{self.folder}/node.log"
        observer = self.component(choice(), "--logfile", path)
        self.say(observer)
        handler: Any = signal.getsignal(signal.SIGUSR1)
        handler(signal.SIGUSR1, None)
        self.say(observer, text="after")
        with open(path) as new, open(f"{path}.1") as old:
            self.assertEqual(json.loads(new.read())["message"], "after")
            self.assertEqual(json.loads(old.read())["message"], "said")

    def test_so_many_that_were_turned_over_are_kept(self) -> None:
        path = f"{self.folder}/node.log"
        observer = self.component(choice(), "--logfile", path)
        handler: Any = signal.getsignal(signal.SIGUSR1)
        for _ in range(OLD_FILES + 3):
            self.say(observer)
            handler(signal.SIGUSR1, None)
        kept = sorted(os.listdir(self.folder))
        self.assertEqual(len(kept), OLD_FILES + 1)
        self.assertIn(f"node.log.{OLD_FILES}", kept)

    def test_a_handler_that_somebody_has_set_stays(self) -> None:
        def mine(_number: int, _frame: Any) -> None:
            raise AssertionError

        signal.signal(signal.SIGUSR1, mine)
        self.component(choice(), "--logfile", f"{self.folder}/node.log")
        self.assertIs(signal.getsignal(signal.SIGUSR1), mine)

    def test_a_daemon_without_a_name_for_its_file_has_the_usual_one(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        self.say(self.component(choice()))
        with open("twistd.log") as log:
            self.assertTrue(is_json(log.read()))

    def test_a_daemon_cannot_log_to_its_standard_output(self) -> None:
        with self.assertRaises(SystemExit):
            self.component(choice(), "--logfile", "-")

    def test_the_systems_log_gets_text_with_a_priority(self) -> None:
        said: list[Any] = []
        self.patch(syslog.SyslogObserver, "openlog", lambda *args: said.append(args[1]))
        self.patch(syslog.SyslogObserver, "syslog", lambda *args: said.append(args[1:]))
        observer = self.component(choice(), "--syslog", "--prefix", "mesh")
        self.say(observer, LogLevel.warn, "one\ntwo")
        self.say(observer, LogLevel.debug)
        self.assertEqual(said, ["mesh", (4, "[here#warn] one"), (4, "[here#warn] \ttwo")])

    def test_an_observer_that_was_named_is_left_alone(self) -> None:
        options = ServerOptions()
        options["nodaemon"] = True
        options["logger"] = lambda: None
        application = Application("x")
        set_up(options, choice(), self.clock)(application)
        self.assertIs(application.getComponent(ILogObserver, None), None)

    def test_a_service_within_another_leaves_the_log_to_it(self) -> None:
        daemon = Daemon("x", self.clock, lambda _: Service(), self.fail)
        self.addCleanup(daemon._release_shell)
        daemon.setServiceParent(MultiService())

    def test_a_service_made_by_hand_leaves_the_log_alone(self) -> None:
        application = Application("x")
        set_up(None, choice(), self.clock)(application)
        self.assertIs(application.getComponent(ILogObserver, None), None)


class TwistTests(LogCase):
    def arranged(self, chosen: LogChoice, **given: Any) -> tuple[Any, Any]:
        options = TwistOptions()
        options.update(fileLogObserverFactory=None, **given)
        set_up(options, chosen, Clock())
        return options["logLevel"], options["fileLogObserverFactory"]

    def test_its_own_choice_stands_where_nothing_was_set(self) -> None:
        level, factory = self.arranged(choice(), logLevel=LogLevel.warn, logFormat="text")
        self.assertIs(level, LogLevel.warn)
        out = io.StringIO()
        self.say(factory(out))
        self.say(factory(out), LogLevel.debug)
        self.assertFalse(is_json(out.getvalue()))
        # The runner leaves out what is less important, not we.
        self.assertEqual(len(out.getvalue().splitlines()), 2)

    def test_what_was_set_counts_for_more(self) -> None:
        level, factory = self.arranged(choice("json", "debug"), logFormat="text")
        self.assertIs(level, LogLevel.debug)
        out = io.StringIO()
        self.say(factory(out), LogLevel.debug)
        self.assertTrue(is_json(out.getvalue()))
