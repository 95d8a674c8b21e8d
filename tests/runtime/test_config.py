"""
Settings are declared once, and every place that gives one is checked by that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Meta
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ConfigError, PartConflict
from meshkit.runtime.config import (
    CONFIG_FILE,
    MAX_CONFIG_FILE,
    Declaration,
    Settings,
    config_file,
    data_folder,
    parse_size,
)

PATH = "/etc/mesh/meshkit.toml"


class Root(msgspec.Struct, frozen=True):
    """Top-level settings of a daemon that exists only here."""

    listen: Annotated[tuple[str, ...], Meta(description="Where to listen.")] = ("tcp:7655",)
    peers: Annotated[
        tuple[str, ...], Meta(description="Whom to dial.", max_length=3, extra={"flag": "peer"})
    ] = ()
    door_token: Annotated[str | None, Meta(description="Token.", extra={"secret": True})] = None
    log_level: Annotated[Literal["debug", "info", "warn"], Meta(description="How much to log.")] = (
        "info"
    )


class Gossip(msgspec.Struct, frozen=True):
    """A section."""

    interval: Annotated[float, Meta(description="Seconds between rounds.", ge=1)] = 60.0
    fanout: Annotated[int, Meta(description="Peers per round.", gt=0, le=64)] = 3
    push: Annotated[bool, Meta(description="Push what is new.")] = True
    deadline: Annotated[float, Meta(description="Seconds a round may take.", ge=0)] | None = None


class Storage(msgspec.Struct, frozen=True):
    """A section whose values have to go together."""

    quota: Annotated[int, Meta(description="Room.", ge=0, extra={"size": True})] = 10 * 2**30
    reserve: Annotated[int, Meta(description="Kept free.", ge=0, extra={"size": True})] = 0
    steps: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="Steps.", extra={"size": True})
    ] = ()

    def __post_init__(self) -> None:
        if self.reserve > self.quota:
            raise ValueError("storage.reserve is larger than storage.quota")


DECLARATION = Declaration(Root, {"storage": Storage, "gossip": Gossip})


def resolve(
    *arguments: str, environ: Mapping[str, str] | None = None, file: str | None = None
) -> Settings[Root]:
    """As a daemon does it."""
    options = DECLARATION.options_class()()
    options.parseOptions(list(arguments))
    content = None if file is None else (PATH, file.encode())
    return DECLARATION.resolve(options.given, environ or {}, content)


class Sources(SynchronousTestCase):
    """The four places that a setting comes from."""

    def test_without_anything_given_all_are_defaults(self) -> None:
        settings = resolve()
        self.assertEqual(settings.root, Root())
        self.assertEqual(settings.section("gossip"), Gossip())
        self.assertEqual({row.origin for row in settings.show()}, {"default"})

    def test_flag_beats_environment_beats_file_beats_default(self) -> None:
        file = "[gossip]\ninterval = 10"
        environ = {"MESHKIT_GOSSIP_INTERVAL": "20"}
        flag = ("--gossip-interval", "30")
        for settings, value, origin in (
            (resolve(), 60.0, "default"),
            (resolve(file=file), 10.0, f"file {PATH}"),
            (resolve(file=file, environ=environ), 20.0, "environment MESHKIT_GOSSIP_INTERVAL"),
            (resolve(*flag, file=file, environ=environ), 30.0, "flag --gossip-interval"),
            (resolve(*flag), 30.0, "flag --gossip-interval"),
        ):
            self.assertEqual(settings.section("gossip").interval, value)
            self.assertIsInstance(settings.section("gossip").interval, float)
            self.assertEqual(settings.origin("gossip.interval"), origin)
            self.assertEqual(settings.origin("gossip.fanout"), "default")

    def test_a_value_equal_to_the_default_still_has_its_origin(self) -> None:
        self.assertEqual(
            resolve("--gossip-fanout=3").origin("gossip.fanout"), "flag --gossip-fanout"
        )

    def test_a_repeated_flag_collects_and_replaces_the_file(self) -> None:
        settings = resolve("--peer", "a b", "--peer=c", file="peers = ['x']")
        self.assertEqual(settings.root.peers, ("a b", "c"))

    def test_a_list_in_the_environment_is_split_at_commas_and_white_space(self) -> None:
        settings = resolve(environ={"MESHKIT_PEERS": " a,b ,\tc\n"})
        self.assertEqual(settings.root.peers, ("a", "b", "c"))

    def test_an_empty_text_empties_a_list_and_an_optional_value(self) -> None:
        file = "listen = ['tcp:1']\n[gossip]\ndeadline = 3"
        environ = {"MESHKIT_LISTEN": "", "MESHKIT_GOSSIP_DEADLINE": ""}
        by_environment = resolve(environ=environ, file=file)
        by_flag = resolve("--listen", "", "--gossip-deadline", "", file=file)
        for settings in (by_environment, by_flag):
            self.assertEqual(settings.root.listen, ())
            self.assertIsNone(settings.section("gossip").deadline)

    def test_a_switch_has_two_flags_and_the_last_one_counts(self) -> None:
        self.assertFalse(resolve("--no-gossip-push").section("gossip").push)
        self.assertTrue(resolve("--no-gossip-push", "--gossip-push").section("gossip").push)
        self.assertFalse(resolve("--gossip-push", "--no-gossip-push").section("gossip").push)

    def test_a_switch_in_the_environment_is_a_word(self) -> None:
        for words, expected in (("1 true Yes ON", True), ("0 FALSE no off", False)):
            for word in words.split():
                settings = resolve(environ={"MESHKIT_GOSSIP_PUSH": word})
                self.assertIs(settings.section("gossip").push, expected)

    def test_sizes_have_units_in_every_place(self) -> None:
        for settings in (
            resolve("--storage-quota", "64 KiB"),
            resolve(environ={"MESHKIT_STORAGE_QUOTA": "64KiB"}),
            resolve(file="[storage]\nquota = '64 KiB'"),
            resolve(file="[storage]\nquota = 65536"),
        ):
            self.assertEqual(settings.section("storage").quota, 65536)
        self.assertEqual(
            resolve(file="[storage]\nsteps = [1, '1 kB']").section("storage").steps, (1, 1000)
        )

    def test_variables_of_other_programs_and_the_home_folder_are_left_alone(self) -> None:
        resolve(
            environ={"HOME": "/root", "MESHKIT": "x", "MESHKIT_HOME": "/x", "meshkit_peers": "x"}
        )

    def test_the_file_may_be_empty(self) -> None:
        self.assertEqual(resolve(file="").root, Root())

    def test_a_daemon_may_have_no_sections(self) -> None:
        settings = Declaration(Root).resolve({}, {})
        with self.assertRaises(KeyError):
            settings.section("gossip")


class Refusals(SynchronousTestCase):
    """What cannot be used is refused by name, place and what is allowed."""

    def refused(self, *arguments: str, says: str, **places: Any) -> None:
        error = self.assertRaises(ConfigError, resolve, *arguments, **places)
        self.assertEqual(str(error), says)

    def test_an_unknown_setting_in_the_file_has_its_line_and_nearest_name(self) -> None:
        self.refused(
            file="# interval\nlisten = []\n\n[gossip]\nfanout = 2\nintervall = 3\n",
            says=f"{PATH}, line 6: there is no setting gossip.intervall: "
            "did you mean gossip.interval?",
        )

    def test_a_setting_in_the_wrong_section_is_shown_its_right_one(self) -> None:
        self.refused(
            file="[gossip]\nlisten = ['tcp:1']",
            says=f"{PATH}, line 2: there is no setting gossip.listen: did you mean listen?",
        )
        self.refused(
            file="interval = 3",
            says=f"{PATH}, line 1: there is no setting interval: did you mean gossip.interval?",
        )

    def test_an_unknown_section_has_its_line_and_nearest_name(self) -> None:
        self.refused(
            file="\n[gosip]\ninterval = 3",
            says=f"{PATH}, line 2: there is no section [gosip]: did you mean gossip?",
        )

    def test_a_name_like_no_other_is_answered_with_all_there_are(self) -> None:
        self.refused(
            file="[zzzz]\n",
            says=f"{PATH}, line 1: there is no section [zzzz]: there are gossip, storage",
        )

    def test_a_section_is_a_table(self) -> None:
        says = f"{PATH}, line 1: gossip is a section: write [gossip] once, above it"
        self.refused(file="gossip = 3", says=says)
        self.refused(file="[[gossip]]\ninterval = 3", says=says)

    def test_a_quoted_name_with_a_dot_is_not_a_section(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file="'gossip.interval' = 3")
        self.assertIn("there is no setting gossip.interval", str(error))

    def test_an_unknown_variable_has_its_nearest_name(self) -> None:
        self.refused(
            environ={"MESHKIT_GOSSIP_INTERVALL": "3"},
            says="the environment variable MESHKIT_GOSSIP_INTERVALL means nothing here: "
            "did you mean MESHKIT_GOSSIP_INTERVAL?",
        )
        self.refused(
            environ={"MESHKIT_HOMES": "3"},
            says="the environment variable MESHKIT_HOMES means nothing here: "
            "did you mean MESHKIT_HOME?",
        )

    def test_the_common_prefix_alone_makes_no_name_near(self) -> None:
        error = self.assertRaises(ConfigError, resolve, environ={"MESHKIT_ZZZZ": "3"})
        self.assertIn("means nothing here: there are MESHKIT_LISTEN, ", str(error))

    def test_an_unknown_flag_is_refused(self) -> None:
        self.assertRaises(usage.UsageError, resolve, "--gossip-speed", "3")
        error = self.assertRaises(ConfigError, DECLARATION.resolve, {"gossip-fanuot": "3"}, {})
        self.assertEqual(
            str(error), "there is no flag --gossip-fanuot: did you mean --gossip-fanout?"
        )

    def test_a_value_out_of_bounds_names_place_and_bounds(self) -> None:
        allowed = "it has to be a whole number of more than 0 and at most 64"
        self.refused(
            "--gossip-fanout=65",
            says=f"flag --gossip-fanout: gossip.fanout is '65'; {allowed}",
        )
        self.refused(
            environ={"MESHKIT_GOSSIP_FANOUT": "0"},
            says=f"environment MESHKIT_GOSSIP_FANOUT: gossip.fanout is '0'; {allowed}",
        )
        self.refused(
            file="[gossip]\npush = true\nfanout = 'three'",
            says=f"{PATH}, line 3: gossip.fanout is 'three'; {allowed}",
        )
        self.assertEqual(resolve("--gossip-fanout=64").section("gossip").fanout, 64)

    def test_a_file_is_taken_by_type_and_not_by_look(self) -> None:
        for line in ("fanout = '3'", "fanout = true", "fanout = 1.5", "push = 1", "push = 'on'"):
            error = self.assertRaises(ConfigError, resolve, file=f"[gossip]\n{line}")
            self.assertIn(f"{PATH}, line 2: gossip.", str(error))

    def test_no_number_is_infinite_or_none(self) -> None:
        for value in ("nan", "inf", "-inf"):
            self.assertRaises(ConfigError, resolve, f"--gossip-deadline={value}")
            self.assertRaises(ConfigError, resolve, file=f"[gossip]\ninterval = {value}")

    def test_a_word_out_of_a_choice_is_shown_the_choice(self) -> None:
        self.refused(
            "--log-level=loud",
            says="flag --log-level: log_level is 'loud'; it has to be one of debug, info, warn",
        )

    def test_a_list_has_a_length(self) -> None:
        self.refused(
            environ={"MESHKIT_PEERS": "a b c d"},
            says="environment MESHKIT_PEERS: peers is 'a b c d'; it has to be "
            "any number of: a text, at most 3 of them",
        )

    def test_a_size_without_a_sensible_unit_is_refused(self) -> None:
        self.refused(
            "--storage-quota=10K",
            says="flag --storage-quota: storage.quota is '10K'; it has to be "
            "a size in bytes, such as 64 KiB or 10 GB of at least 0",
        )

    def test_values_that_do_not_go_together_name_their_origins(self) -> None:
        self.refused(
            "--storage-reserve=2kB",
            file="[storage]\nquota = '1 kB'",
            says="storage.reserve is larger than storage.quota "
            f"(storage.quota from file {PATH}, storage.reserve from flag --storage-reserve)",
        )

    def test_a_secret_stays_out_of_the_message(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file="door_token = 20406080")
        self.assertEqual(
            str(error),
            f"{PATH}, line 1: door_token cannot be used; it has to be a text, or nothing",
        )

    def test_a_long_value_is_cut(self) -> None:
        error = self.assertRaises(ConfigError, resolve, "--log-level=" + "x" * 5000)
        self.assertLess(len(str(error)), 300)

    def test_a_name_that_would_break_a_log_line_is_quoted(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file='"a\\nb" = 1')
        self.assertIn("there is no setting 'a\\nb'", str(error))

    def test_a_file_that_is_not_toml_is_refused_with_the_place(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file="listen = [\n'a'\nx")
        self.assertIn(f"{PATH} is not a TOML file: ", str(error))
        self.assertIn("line 3", str(error))

    def test_a_file_that_is_not_text_is_refused(self) -> None:
        error = self.assertRaises(ConfigError, DECLARATION.resolve, {}, {}, (PATH, b"# \xff\n"))
        self.assertEqual(str(error), f"{PATH} is not UTF-8 text: see byte 2")

    def test_a_file_nested_without_end_is_refused(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file="peers = " + "[" * 50_000)
        self.assertIn("nested too deep", str(error))

    def test_a_file_has_a_size(self) -> None:
        fits = "#" * MAX_CONFIG_FILE
        resolve(file=fits)
        error = self.assertRaises(ConfigError, resolve, file=fits + "#")
        self.assertIn(f"at most {MAX_CONFIG_FILE} are read", str(error))

    def test_the_line_is_found_past_strings_and_lists_that_look_alike(self) -> None:
        file = '''peers = [
  "bogus = 1",
]
log_level = "info" # bogus = 2
door_token = """
bogus = 3
"""

bogus = 4
'''
        error = self.assertRaises(ConfigError, resolve, file=file)
        self.assertIn(f"{PATH}, line 9: there is no setting bogus", str(error))

    def test_a_line_that_cannot_be_found_is_left_out(self) -> None:
        error = self.assertRaises(ConfigError, resolve, file='"\\u0062ogus" = 1')
        self.assertIn(f"{PATH}: there is no setting bogus", str(error))

    @given(data=st.binary(max_size=200))
    def test_any_bytes_are_a_file_or_a_config_error(self, data: bytes) -> None:
        try:
            DECLARATION.resolve({}, {}, (PATH, data))
        except ConfigError as error:
            self.assertIn(PATH, str(error))

    @given(key=st.sampled_from(DECLARATION.settings), text=st.text(max_size=30))
    def test_any_text_is_a_value_or_a_config_error(self, key: Any, text: str) -> None:
        try:
            settings = DECLARATION.resolve({}, {key.environment: text})
        except ConfigError as error:
            self.assertIn(key.key, str(error))
        else:
            self.assertEqual(settings.origin(key.key), f"environment {key.environment}")


class Shown(SynchronousTestCase):
    """What C{meshkit config show} prints."""

    def test_every_setting_is_a_row_top_level_first(self) -> None:
        rows = resolve("--gossip-fanout=5").show()
        self.assertEqual(
            [row.key for row in rows],
            [
                "listen",
                "peers",
                "door_token",
                "log_level",
                "gossip.interval",
                "gossip.fanout",
                "gossip.push",
                "gossip.deadline",
                "storage.quota",
                "storage.reserve",
                "storage.steps",
            ],
        )
        by_key = {row.key: row for row in rows}
        self.assertEqual(
            (by_key["gossip.fanout"].value, by_key["gossip.fanout"].origin),
            (5, "flag --gossip-fanout"),
        )
        self.assertEqual(by_key["gossip.fanout"].description, "Peers per round.")
        self.assertEqual(msgspec.json.encode(by_key["listen"].value), b'["tcp:7655"]')
        self.assertEqual(by_key["storage.quota"].text, "10 GiB")
        self.assertEqual(by_key["gossip.push"].text, "true")
        self.assertEqual(by_key["gossip.interval"].text, "60")
        self.assertIsNone(by_key["door_token"].value)

    def test_a_secret_is_masked(self) -> None:
        settings = resolve(environ={"MESHKIT_DOOR_TOKEN": "hunter2"})
        self.assertEqual(settings.root.door_token, "hunter2")
        self.assertNotIn("hunter2", repr(settings) + repr(settings.show()))
        row = next(row for row in settings.show() if row.key == "door_token")
        self.assertEqual((row.value, row.text), ("********", "********"))
        self.assertEqual(row.origin, "environment MESHKIT_DOOR_TOKEN")

    def test_what_is_shown_can_be_given_back(self) -> None:
        given = resolve(
            "--peer=a",
            "--peer=b",
            "--storage-quota=3MiB",
            "--no-gossip-push",
            "--gossip-interval=1.1",
            "--gossip-deadline=1234567.25",
        )
        environ = {
            setting.environment: row.text
            for setting, row in zip(DECLARATION.settings, given.show(), strict=True)
        }
        again = DECLARATION.resolve({}, environ)
        self.assertEqual(again.root, given.root)
        self.assertEqual(again.section("gossip"), given.section("gossip"))
        self.assertEqual(again.section("storage"), given.section("storage"))

    def test_the_origin_of_an_unknown_setting_is_refused(self) -> None:
        error = self.assertRaises(ConfigError, resolve().origin, "gossip.intervl")
        self.assertIn("did you mean gossip.interval?", str(error))


class CommandLine(SynchronousTestCase):
    """The C{usage.Options} made from a declaration."""

    def test_help_shows_description_and_default_of_every_flag(self) -> None:
        text = " ".join(DECLARATION.options_class()().getUsage(width=100).split())
        for expected in (
            "--listen= Where to listen. [default: tcp:7655] (may be repeated)",
            "--peer= Whom to dial. (may be repeated)",
            "--gossip-interval= Seconds between rounds. [default: 60]",
            "--gossip-push Push what is new. [default: true]",
            "--no-gossip-push The opposite of --gossip-push.",
            "--storage-quota= Room. [default: 10 GiB]",
            "-d, --data-dir= Folder",
            "-c, --config= Configuration file",
        ):
            self.assertIn(expected, text)

    def test_a_secret_has_no_flag_unless_one_is_named(self) -> None:
        self.assertNotIn("token", DECLARATION.options_class()().getUsage())
        self.assertRaises(usage.UsageError, resolve, "--door-token=hunter2")

        class Named(msgspec.Struct):
            key: Annotated[
                str, Meta(description="A key.", extra={"secret": True, "flag": "network-key"})
            ] = ""

        declaration = Declaration(Named)
        settings = declaration.resolve({"network-key": "hunter2"}, {})
        self.assertEqual(settings.root.key, "hunter2")
        self.assertEqual(settings.origin("key"), "flag --network-key")
        self.assertEqual(settings.show()[0].text, "********")

    def test_the_places_of_data_and_file_are_not_settings(self) -> None:
        options = DECLARATION.options_class()()
        options.parseOptions(["-d", "/x", "--config=/y", "--gossip-push"])
        self.assertEqual((options["data-dir"], options["config"]), ("/x", "/y"))
        self.assertEqual(options.given, {"gossip-push": True})

    def test_two_parsers_share_nothing(self) -> None:
        options = DECLARATION.options_class()
        first, second = options(), options()
        first.parseOptions(["--peer=a"])
        second.parseOptions(["--peer=b"])
        self.assertEqual(second.given, {"peer": ["b"]})


class Declarations(SynchronousTestCase):
    """A declaration that cannot work is refused when it is made."""

    def wrong(self, kind: Any, default: Any, **meta: Any) -> str:
        meta.setdefault("description", "A setting.")
        field = ("field", Annotated[kind, Meta(**meta)], default)
        struct = msgspec.defstruct("Wrong", [field])
        return str(self.assertRaises(TypeError, Declaration, struct))

    def test_what_no_flag_could_carry_is_no_setting(self) -> None:
        for kind, default in (
            (dict[str, str], msgspec.field(default_factory=dict)),
            (tuple[int, str], (1, "")),
            (int | str, 1),
            (bytes, b""),
            (Literal[1, 2], 1),
            (tuple[tuple[int, ...], ...], ()),
        ):
            self.assertIn("the setting field", self.wrong(kind, default))
        self.assertIn("the setting field", self.wrong(str, "", ge=1))

    def test_a_setting_needs_a_default_that_it_allows(self) -> None:
        self.assertIn("needs a default", self.wrong(int, msgspec.NODEFAULT))
        self.assertIn("default of field", self.wrong(int, 0, ge=1))
        self.assertIn("default of field", self.wrong(float, float("inf")))

    def test_a_setting_needs_a_description(self) -> None:
        self.assertIn("needs a description", self.wrong(int, 1, description=""))

    def test_a_misspelt_extra_is_refused(self) -> None:
        self.assertIn("extras", self.wrong(int, 1, extra={"secrets": True}))

    def test_a_flag_is_a_word(self) -> None:
        self.assertIn("--peer=x", self.wrong(int, 1, extra={"flag": "peer=x"}))

    def test_a_size_is_a_number_of_bytes(self) -> None:
        self.assertIn("has to be an int", self.wrong(float, 1.0, extra={"size": True}))

    def test_a_field_may_not_be_renamed(self) -> None:
        class Renamed(msgspec.Struct, rename="camel"):
            one_field: Annotated[int, Meta(description="A setting.")] = 1

        self.assertRaises(TypeError, Declaration, Renamed)

    def test_two_settings_may_not_share_a_flag(self) -> None:
        class Top(msgspec.Struct):
            gossip_interval: Annotated[int, Meta(description="A setting.")] = 1

        error = self.assertRaises(PartConflict, Declaration, Top, {"gossip": Gossip})
        self.assertIn("gossip_interval and gossip.interval", str(error))

        class Negative(msgspec.Struct):
            no_gossip_push: Annotated[int, Meta(description="A setting.")] = 1

        error = self.assertRaises(PartConflict, Declaration, Negative, {"gossip": Gossip})
        self.assertIn("--no-gossip-push", str(error))

    def test_two_secrets_may_not_share_a_variable(self) -> None:
        class One(msgspec.Struct):
            b_c: Annotated[str, Meta(description="A setting.", extra={"secret": True})] = ""

        class Two(msgspec.Struct):
            c: Annotated[str, Meta(description="A setting.", extra={"secret": True})] = ""

        self.assertRaises(PartConflict, Declaration, Root, {"a": One, "a_b": Two})

    def test_no_setting_takes_the_place_of_what_every_daemon_has(self) -> None:
        for name in ("config", "data_dir", "help", "version", "home"):
            meta = Annotated[str, Meta(description="A setting.")]
            struct = msgspec.defstruct("Top", [(name, meta, "")])
            self.assertRaises(PartConflict, Declaration, struct)

    def test_a_setting_and_a_section_may_not_share_a_name(self) -> None:
        self.assertRaises(PartConflict, Declaration, Root, {"listen": Gossip})


class Sizes(SynchronousTestCase):
    """Numbers of bytes, written for people."""

    def test_units_are_powers_of_a_thousand_or_of_1024(self) -> None:
        for text, size in (
            ("0", 0),
            ("17", 17),
            ("17 B", 17),
            ("10GB", 10**10),
            ("64 KiB", 65536),
            (" 1.5 gib ", 3 * 2**29),
            ("1.1 kB", 1100),
            ("2TiB", 2**41),
        ):
            self.assertEqual(parse_size(text), size)

    def test_anything_else_is_refused(self) -> None:
        for text in (
            "",
            "GB",
            "-1",
            "1,5 GB",
            "10K",
            "10G",
            "1.1 B",
            "1.3 KiB",
            "1e3",
            "१२",
            "9" * 30,
        ):
            self.assertRaises(ValueError, parse_size, text)

    @given(size=st.integers(0, 10**17), unit=st.sampled_from(["", "kB", "MB", "GB", "TB"]))
    def test_digits_are_never_rounded(self, size: int, unit: str) -> None:
        factor = parse_size(f"1 {unit}")
        self.assertEqual(parse_size(f"{size} {unit}"), size * factor)


class Files:
    """One file, or an error."""

    def __init__(self, content: bytes | OSError) -> None:
        self.content = content
        self.asked: list[tuple[str, int]] = []

    def read(self, path: str, limit: int) -> bytes:
        self.asked.append((path, limit))
        if isinstance(self.content, OSError):
            raise self.content
        return self.content


class Places(SynchronousTestCase):
    """Where the data folder and the file are."""

    def test_flag_beats_home_variable_beats_xdg_beats_home(self) -> None:
        environ = {"MESHKIT_HOME": "/m", "XDG_DATA_HOME": "/x"}
        self.assertEqual(data_folder("/f", environ, "/h"), "/f")
        self.assertEqual(data_folder(None, environ, "/h"), "/m")
        self.assertEqual(data_folder(None, {"XDG_DATA_HOME": "/x"}, "/h"), "/x/meshkit")
        self.assertEqual(data_folder(None, {}, "/h"), "/h/.local/share/meshkit")

    def test_empty_and_relative_variables_count_as_xdg_says(self) -> None:
        for environ in ({"MESHKIT_HOME": ""}, {"XDG_DATA_HOME": ""}, {"XDG_DATA_HOME": "x"}):
            self.assertEqual(data_folder(None, environ, "/h"), "/h/.local/share/meshkit")

    def test_a_tilde_is_the_home_folder_given(self) -> None:
        self.assertEqual(data_folder("~/a", {}, "/h"), "/h/a")
        self.assertEqual(data_folder(None, {"MESHKIT_HOME": "~/b"}, "/h"), "/h/b")

    def test_an_empty_flag_is_refused(self) -> None:
        self.assertRaises(ConfigError, data_folder, " ", {}, "/h")

    def test_the_file_named_by_the_flag_is_read(self) -> None:
        files = Files(b"x")
        self.assertEqual(config_file("/c.toml", "/d", files), ("/c.toml", b"x"))
        self.assertEqual(files.asked, [("/c.toml", MAX_CONFIG_FILE)])

    def test_else_the_one_in_the_data_folder_if_there_is_one(self) -> None:
        self.assertEqual(config_file(None, "/d", Files(b"x")), (f"/d/{CONFIG_FILE}", b"x"))
        self.assertIsNone(config_file(None, "/d", Files(FileNotFoundError())))

    def test_a_file_that_was_asked_for_has_to_be_there(self) -> None:
        error = self.assertRaises(ConfigError, config_file, "/c", "/d", Files(FileNotFoundError()))
        self.assertEqual(str(error), "there is no configuration file /c")

    def test_a_file_that_cannot_be_read_is_never_passed_over(self) -> None:
        error = self.assertRaises(
            ConfigError, config_file, None, "/d", Files(PermissionError(13, "Permission denied"))
        )
        self.assertIn("cannot be read: Permission denied", str(error))

    @given(text=st.text(max_size=20))
    def test_every_line_reported_is_one_of_the_file(self, text: str) -> None:
        file = f"# {text!r}\nbogus = 1"
        try:
            tomllib.loads(file)
        except tomllib.TOMLDecodeError:
            assume(False)
        error = self.assertRaises(ConfigError, resolve, file=file)
        self.assertIn("line 2", str(error))


class Dish(msgspec.Struct, frozen=True):
    """One of a list of tables."""

    name: Annotated[str, Meta(description="What it is called.")]
    price: Annotated[float, Meta(description="What it costs.", ge=0)] = 1.0
    size: Annotated[int, Meta(description="Bytes.", extra={"size": True})] = 1024
    recipe: Annotated[str, Meta(description="How it is made.", extra={"secret": True})] = ""
    sides: Annotated[tuple[str, ...], Meta(description="What else.")] = ()

    def __post_init__(self) -> None:
        if self.name == "nothing":
            raise ValueError("nothing is no dish")


class Kitchen(msgspec.Struct, frozen=True):
    """A section with a list of tables."""

    dish: Annotated[tuple[Dish, ...], Meta(description="What there is.", max_length=3)] = ()
    open: Annotated[bool, Meta(description="Is it open?")] = True

    def __post_init__(self) -> None:
        if len({dish.name for dish in self.dish}) < len(self.dish):
            raise ValueError("two dishes have one name")


DESCRIBED = Meta(description="What there is.", max_length=3)


class NoLimit(msgspec.Struct):
    """There could be any number of them."""

    dish: Annotated[tuple[Dish, ...], Meta(description="What there is.")] = ()


class NoDescription(msgspec.Struct):
    """Nobody knows what for."""

    dish: Annotated[tuple[Dish, ...], Meta(max_length=3)] = ()


class NotEmpty(msgspec.Struct):
    """Something is there that no file gave."""

    dish: Annotated[tuple[Dish, ...], DESCRIBED] = (Dish(name="soup"),)


class Odd(msgspec.Struct):
    """A table with what no setting can be."""

    inner: dict[str, int] = {}


class OddField(msgspec.Struct):
    """A list of such."""

    dish: Annotated[tuple[Odd, ...], DESCRIBED] = ()


MENU = """
[kitchen]
open = false

[[kitchen.dish]]
name = "soup"
size = "2 KiB"
recipe = "grandmother's"

[[kitchen.dish]]
name = "salad"
sides = ["bread", "oil"]
price = 2.5
"""


class Tables(SynchronousTestCase):
    """Lists of tables, which only the file can hold."""

    declaration = Declaration(Root, {"kitchen": Kitchen})

    def resolve(self, file: str) -> Settings[Root]:
        return self.declaration.resolve({}, {}, (PATH, file.encode()))

    def refused(self, file: str, *said: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            self.resolve(file)
        for each in said:
            self.assertIn(each, str(caught.exception))
        return str(caught.exception)

    def test_each_is_one_of_a_list(self) -> None:
        kitchen = self.resolve(MENU).section("kitchen")
        soup = Dish(name="soup", size=2048, recipe="grandmother's")
        salad = Dish(name="salad", price=2.5, sides=("bread", "oil"))
        self.assertEqual(kitchen, Kitchen(dish=(soup, salad), open=False))
        self.assertEqual(self.resolve("").section("kitchen"), Kitchen())

    def test_it_has_neither_flag_nor_variable(self) -> None:
        with self.assertRaises(ConfigError):
            self.declaration.resolve({"kitchen-dish": "x"}, {})
        with self.assertRaises(ConfigError):
            self.declaration.resolve({}, {"MESHKIT_KITCHEN_DISH": "x"})
        self.assertNotIn("dish", str(self.declaration.options_class()()))
        self.assertEqual([table.key for table in self.declaration.tables], ["kitchen.dish"])

    def test_what_is_wrong_is_shown_with_its_line(self) -> None:
        self.refused(MENU + "prize = 3", f"{PATH}, line 14", "prize", "did you mean price?")
        self.refused(MENU.replace("2.5", "-1"), f"{PATH}, line 13", "at least 0", "dish.price")
        self.refused(MENU.replace('"2 KiB"', '"2 K"'), f"{PATH}, line 7", "64 KiB")
        self.refused(MENU + "[[kitchen.dish]]\nprice = 2.5", f"{PATH}, line 14", "lacks name")
        self.refused(MENU.replace('"salad"', '"nothing"'), f"{PATH}, line 10", "no dish")
        self.refused(MENU.replace('"salad"', '"soup"'), "one name", f"file {PATH}")

    def test_what_is_no_list_of_tables_is_told_how_to_be_one(self) -> None:
        for wrong in ("[kitchen.dish]\nname = 'x'", "[kitchen]\ndish = 3", "[kitchen]\ndish = [3]"):
            self.refused(wrong, f"{PATH}, line", "write [[kitchen.dish]] above each")

    def test_there_is_a_limit(self) -> None:
        rows = [f"[[kitchen.dish]]\nname = 'd{number}'" for number in range(4)]
        self.assertEqual(len(self.resolve("\n".join(rows[:3])).section("kitchen").dish), 3)
        self.refused("\n".join(rows), "more than 3")

    def test_a_secret_is_masked(self) -> None:
        settings = self.resolve(MENU)
        (row,) = [each for each in settings.show() if each.key == "kitchen.dish"]
        self.assertEqual(
            row.text,
            "name=soup price=1 size=2 KiB recipe=********; "
            "name=salad price=2.5 size=1 KiB sides=bread,oil",
        )
        self.assertEqual([dish["recipe"] for dish in row.value], ["********", ""])
        self.assertEqual((row.origin, row.description), (f"file {PATH}", "What there is."))
        self.assertNotIn("grand", msgspec.json.encode(row.value).decode())
        self.assertNotIn("grand", repr(settings))
        self.assertNotIn("grand", self.refused(MENU.replace('"grandmother\'s"', "['grand']")))
        self.assertEqual(settings.origin("kitchen.dish"), f"file {PATH}")

    def test_what_cannot_be_one_is_a_mistake_of_the_declaration(self) -> None:
        for wrong in (NoLimit, NoDescription, NotEmpty, OddField):
            with self.subTest(wrong.__name__), self.assertRaises(TypeError):
                Declaration(Root, {"kitchen": wrong})
