"""
The settings of a daemon: declared once, read from four places.

A C{msgspec.Struct} per daemon holds the settings at the top level, and one per part
holds the part's section.  Each field has a type, a default and a description::

    class GossipConfig(msgspec.Struct, frozen=True):
        interval: Annotated[
            float, msgspec.Meta(description="Seconds between rounds.", ge=1)
        ] = 60.0

In the section C{gossip} this field is the setting C{gossip.interval}.  From the
declaration come

  1. the command line: C{--gossip-interval 30}, with its help text;
  2. the environment: C{MESHKIT_GOSSIP_INTERVAL=30};
  3. the configuration file, in TOML: C{interval = 30} under C{[gossip]};
  4. the default.

The first of them that gives a value wins, and L{Settings.origin} says which it was.
A name that nothing declares is refused wherever it stands, with the nearest one that
exists: a misspelt setting that is silently ignored costs an operator a day.

A field is a C{bool}, C{int}, C{float}, C{str} or a C{Literal} of strings; or one of
these C{| None}; or a C{tuple[..., ...]} of them, which is a repeated flag and, in the
environment, a list separated by commas or white space.  An empty text means no value
or no elements, where the type allows that.  C{Meta(extra={...})} refines a field:

  - C{"flag": "peer"}: the singular name that the flag of a tuple gets;
  - C{"size": True}: an C{int} of bytes that may be written C{64 KiB} or C{10 GB};
  - C{"secret": True}: never shown.  It has a flag only if C{"flag"} names one, because
    every user of a machine can read the command lines of its processes.

A field that is a C{tuple[SomeStruct, ...]} is a list of tables, for what there may be any
number of: L{Table}.  It is written in the file, and only there::

    [[hooks.command]]
    name = "notify"
    run = ["/usr/local/bin/notify"]

The fields of that Struct are declared like settings, but may lack a default, and then have
to be given.

Times are seconds.  Where the data folder and the file are is not itself a setting,
as the file could not say so: see L{data_folder} and L{config_file}.
"""

from __future__ import annotations

import math
import os.path
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec
from attrs import evolve, frozen
from msgspec import inspect
from twisted.python import usage

from meshkit.errors import ConfigError, PartConflict
from meshkit.interfaces import IFiles

__all__ = [
    "CONFIG_FILE",
    "IGNORED_ENVIRONMENT",
    "MAX_CONFIG_FILE",
    "Declaration",
    "Setting",
    "Settings",
    "SettingsOptions",
    "ShownSetting",
    "Table",
    "config_file",
    "data_folder",
    "declare",
    "parse_size",
]

#: Name of the configuration file in a data folder.
CONFIG_FILE: Final = "meshkit.toml"

#: A larger configuration file is refused unread.
MAX_CONFIG_FILE: Final = 64 * 1024

#: What every variable that gives a setting begins with.
ENVIRONMENT_PREFIX: Final = "MESHKIT_"

#: Variables with the prefix that are no settings: where the data folder is, what opens
#: the door to a command, and what the test suite is told.
IGNORED_ENVIRONMENT: Final = frozenset({"MESHKIT_HOME", "MESHKIT_TEST_SECONDS", "MESHKIT_TOKEN"})

# Flags that every daemon has and no setting may take.
_TAKEN_FLAGS: Final = frozenset({"config", "data-dir", "help", "passphrase-fd", "version"})
_FLAG: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_EXTRAS: Final = frozenset({"flag", "secret", "size"})
_MASK: Final = "********"
_SHOWN_CHARACTERS: Final = 80

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)")
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}

_Root = TypeVar("_Root", bound=msgspec.Struct)


class _Unusable(Exception):
    """A value is not what its setting allows.  Leaves this module as ConfigError."""


def parse_size(text: str) -> int:
    """
    Read a number of bytes: C{1048576}, C{10 GB} (powers of 1000), C{64 KiB} (powers
    of 1024), up to tera.  The case of the unit does not matter.

    @raise ValueError: if it is anything else, or not a whole number of bytes.  A bare
        C{10K} is refused too: it means 10,000 to some and 10,240 to others.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match and _UNITS.get(match[2].lower())
    if not match or not unit:
        raise ValueError(f"{text[:_SHOWN_CHARACTERS]!r} is not a size such as 64 KiB or 10 GB")
    size = Fraction(match[1]) * unit
    if size.denominator != 1:
        raise ValueError(f"{text[:_SHOWN_CHARACTERS]!r} is not a whole number of bytes")
    return int(size)


def _show_size(size: int) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return str(size)


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _unwrapped(info: inspect.Type) -> tuple[inspect.Type, dict[str, Any], dict[str, Any]]:
    """Take the C{Meta} off a type: what is within, its JSON Schema, its extras."""
    schema: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    while isinstance(info, inspect.Metadata):
        schema |= info.extra_json_schema or {}
        extra |= info.extra or {}
        info = info.type
    return info, schema, extra


def _bounds(info: inspect.IntType | inspect.FloatType, show: Any) -> str:
    limits = [
        f"{words} {show(limit)}"
        for words, limit in (
            ("at least", info.ge),
            ("more than", info.gt),
            ("at most", info.le),
            ("less than", info.lt),
        )
        if limit is not None
    ]
    return f" of {' and '.join(limits)}" if limits else ""


def _allowed(info: inspect.Type, size: bool) -> str:
    """What a scalar may be, for people."""
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() if size:
            return f"a size in bytes, such as 64 KiB or 10 GB{_bounds(info, _show_size)}"
        case inspect.IntType():
            return f"a whole number{_bounds(info, str)}"
        case inspect.FloatType():
            return f"a number{_bounds(info, lambda limit: format(limit, 'g'))}"
        case inspect.LiteralType():
            return f"one of {', '.join(sorted(map(str, info.values)))}"
        case inspect.StrType():
            words = "a text"
            if info.min_length is not None:
                words += f" of at least {info.min_length} characters"
            if info.max_length is not None:
                words += f" of at most {info.max_length} characters"
            if info.pattern is not None:
                words += f" matching {info.pattern}"
            return words
        case _:
            raise TypeError(f"a setting cannot be of type {type(info).__name__}")


@frozen
class Setting:
    """
    One declared setting.

    @ivar key: C{gossip.interval}, or C{listen} at the top level.
    @ivar section: name of the section, or L{None} at the top level.
    @ivar field: name of the field.
    @ivar flag: name of the flag without dashes, or L{None} if it has none.
    @ivar environment: name of the variable.
    @ivar default: its default.
    @ivar description: what it is for.
    @ivar allowed: what it may be, for people.
    @ivar boolean: on or off; has a C{--no-} flag as well.
    @ivar many: takes any number of values.
    @ivar optional: may be L{None}.
    @ivar size: counts bytes.
    @ivar secret: never shown.
    """

    key: str
    section: str | None
    field: str
    flag: str | None
    environment: str
    type: Any
    default: Any
    description: str
    allowed: str
    boolean: bool
    many: bool
    optional: bool
    size: bool
    secret: bool

    @classmethod
    def declare(
        cls, section: str | None, field: msgspec.structs.FieldInfo, *, in_table: bool = False
    ) -> Setting:
        """
        Read one field of a Struct.

        @param in_table: it is a field of a L{Table}, and may lack a default.
        @raise TypeError: if the field cannot be a setting; a mistake of whoever wrote
            the declaration.
        """
        key = field.name if section is None else f"{section}.{field.name}"
        if field.encode_name != field.name:
            raise TypeError(f"the setting {key} may not be renamed in files")
        if field.required and not in_table:
            raise TypeError(f"the setting {key} needs a default")
        try:
            info, schema, extra = _unwrapped(inspect.type_info(field.type))
        except TypeError as error:
            raise TypeError(f"the setting {key}: {error}") from None
        optional = many = False
        suffix = ""
        if isinstance(info, inspect.UnionType):
            others = [each for each in info.types if not isinstance(each, inspect.NoneType)]
            if len(others) != 1 or len(others) == len(info.types):
                raise TypeError(f"the setting {key} cannot be of more than one type")
            # Annotated[float, Meta(...)] | None has its Meta inside.
            info, inner_schema, inner_extra = _unwrapped(others[0])
            schema, extra = inner_schema | schema, inner_extra | extra
            optional, suffix = True, ", or nothing"
        elif isinstance(info, inspect.VarTupleType):
            if info.min_length:
                suffix += f", at least {info.min_length} of them"
            if info.max_length is not None:
                suffix += f", at most {info.max_length} of them"
            info, many = _unwrapped(info.item_type)[0], True
        description = schema.get("description")
        if not description:
            raise TypeError(f"the setting {key} needs a description")
        if extra.keys() - _EXTRAS:
            raise TypeError(f"the setting {key} has extras other than {sorted(_EXTRAS)}")
        size, secret = bool(extra.get("size")), bool(extra.get("secret"))
        if size and not isinstance(info, inspect.IntType):
            raise TypeError(f"the setting {key} is a size and has to be an int")
        if isinstance(info, inspect.LiteralType) and not all(
            isinstance(value, str) for value in info.values
        ):
            raise TypeError(f"the setting {key} may only be a Literal of strings")
        try:
            allowed = _allowed(info, size) + suffix
        except TypeError as error:
            raise TypeError(f"the setting {key}: {error}") from None
        prefix = "" if section is None else f"{section}_"
        flag = f"{prefix}{extra.get('flag', field.name)}".replace("_", "-")
        if not _FLAG.fullmatch(flag):
            raise TypeError(f"the setting {key} would have the flag --{flag}")
        setting = cls(
            key=key,
            section=section,
            field=field.name,
            flag=None if secret and "flag" not in extra else flag,
            environment=f"{ENVIRONMENT_PREFIX}{prefix}{field.name}".upper(),
            type=field.type,
            default=None if field.required else _default(field),
            description=description,
            allowed=f"any number of: {allowed}" if many else allowed,
            boolean=isinstance(info, inspect.BoolType) and not many,
            many=many,
            optional=optional,
            size=size,
            secret=secret,
        )
        if not field.required:
            try:
                setting._check(setting.default)
            except _Unusable:
                raise TypeError(f"the default of {key} is not {allowed}") from None
        return setting

    @property
    def help(self) -> str:
        """Description and default, for C{--help}."""
        default = self.show(self.default)
        return f"{self.description} [default: {default}]" if default else self.description

    def show(self, value: Any) -> str:
        """A value as one would write it in the environment; a secret is masked."""
        if value is None or value == () or value == "":
            return ""
        if self.secret:
            return _MASK
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return format(value, "g") if float(format(value, "g")) == value else repr(value)
        if isinstance(value, tuple):
            return ",".join(self.show(item) for item in value)
        return _show_size(value) if self.size else str(value)

    def _check(self, value: Any) -> Any:
        """
        Take a value as a file gives it.

        @return: the value in the field's own type.
        @raise _Unusable: if the declaration does not allow it.
        """
        if self.size:
            if isinstance(value, str):
                value = _size(value)
            elif isinstance(value, (list, tuple)):
                value = [_size(item) if isinstance(item, str) else item for item in value]
        return self._convert(value, strict=True)

    def _parse(self, given: str | bool | Sequence[str]) -> Any:
        """
        Take a value as the command line or the environment gives it.

        @param given: its text; a C{bool} for the flag of an on-off setting; the texts
            of a flag that was repeated.
        @return: the value in the field's own type.
        @raise _Unusable: if the declaration does not allow it.
        """
        if self.many:
            texts = re.split(r"[,\s]+", given) if isinstance(given, str) else given
            if isinstance(texts, bool):
                raise _Unusable
            return self._convert([self._item(text) for text in texts if text], strict=False)
        if isinstance(given, bool) and self.boolean:
            return given
        if not isinstance(given, str):
            raise _Unusable
        if self.optional and not given:
            return None
        return self._convert(self._item(given), strict=False)

    def _item(self, text: str) -> Any:
        if self.size:
            return _size(text)
        if self.boolean:
            word = text.strip().lower()
            if word not in _TRUE | _FALSE:
                raise _Unusable
            return word in _TRUE
        return text

    def _convert(self, value: Any, strict: bool) -> Any:
        try:
            result = msgspec.convert(value, self.type, strict=strict)
        except msgspec.ValidationError:
            raise _Unusable from None
        # TOML and float() know nan and inf; no timer and no rate does.
        numbers = result if isinstance(result, tuple) else (result,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise _Unusable
        return result


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


@frozen
class Table:
    """
    A declared list of tables.

    @ivar key: C{hooks.command}; in the file, C{[[hooks.command]]} above each.
    @ivar section: name of the section.
    @ivar field: name of the field.
    @ivar struct: type of one table.
    @ivar columns: its fields, as settings without flag and variable.
    @ivar required: names of those that have no default.
    @ivar description: what it is for.
    @ivar most: how many there may be.
    """

    key: str
    section: str
    field: str
    struct: type[msgspec.Struct]
    columns: tuple[Setting, ...]
    required: frozenset[str]
    description: str
    most: int

    @classmethod
    def declare(cls, section: str, field: msgspec.structs.FieldInfo) -> Table | None:
        """
        Read one field of a Struct.

        @return: L{None} if it is no list of tables, but a setting.
        @raise TypeError: if it is one and cannot be declared.
        """
        info, schema, _ = _unwrapped(inspect.type_info(field.type))
        if not isinstance(info, inspect.VarTupleType):
            return None
        item = _unwrapped(info.item_type)[0]
        if not isinstance(item, inspect.StructType):
            return None
        key = f"{section}.{field.name}"
        if field.required or _default(field) != ():
            raise TypeError(f"the list {key} has to be empty by default")
        if not schema.get("description") or info.max_length is None:
            raise TypeError(f"the list {key} needs a description and a max_length")
        fields = msgspec.structs.fields(item.cls)
        return cls(
            key=key,
            section=section,
            field=field.name,
            struct=item.cls,
            columns=tuple(
                evolve(
                    Setting.declare(None, each, in_table=True),
                    key=f"{key}.{each.name}",
                    section=key,
                    flag=None,
                    environment="",
                )
                for each in fields
            ),
            required=frozenset(each.name for each in fields if each.required),
            description=schema["description"],
            most=info.max_length,
        )

    def show(self, rows: Sequence[Any]) -> str:
        """The tables on one line, for people; a secret is masked."""
        return "; ".join(
            " ".join(
                f"{name}={text}"
                for name, text in (
                    (column.field, column.show(getattr(row, column.field)))
                    for column in self.columns
                )
                if text
            )
            for row in rows
        )

    def masked(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The tables, as L{msgspec.json.encode} takes them."""
        return [
            {
                column.field: _MASK
                if column.secret and getattr(row, column.field)
                else getattr(row, column.field)
                for column in self.columns
            }
            for row in rows
        ]


def declare(section: str | None, field: msgspec.structs.FieldInfo) -> Setting | Table:
    """
    Read one field of a Struct that holds settings.

    @param section: name of the section, or L{None} at the top level, which has no tables.
    @raise TypeError: see L{Setting.declare}.
    """
    table = None if section is None else Table.declare(section, field)
    return Setting.declare(section, field) if table is None else table


@lru_cache(maxsize=256)
def declare_all(section: str | None, struct: type[msgspec.Struct]) -> tuple[Setting | Table, ...]:
    """
    Read all fields of a Struct that holds settings.  Each is read once: of what a node takes to
    start, that was the fifth part.

    @param section: as for L{declare}.
    @raise TypeError: see L{Setting.declare}.
    """
    return tuple(declare(section, field) for field in msgspec.structs.fields(struct))


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise _Unusable from None


@frozen
class ShownSetting:
    """
    One row of C{meshkit config show --origin}.

    @ivar key: C{gossip.interval}.
    @ivar value: the value, which L{msgspec.json.encode} takes as it is; eight stars for a
        secret that is set.
    @ivar text: the value as one would write it in the environment.
    @ivar origin: see L{Settings.origin}.
    @ivar description: what the setting is for.
    """

    key: str
    value: Any
    text: str
    origin: str
    description: str


class SettingsOptions(usage.Options):
    """
    Command-line options made from a declaration by L{Declaration.options_class}.

    C{options["data-dir"]} and C{options["config"]} are for L{data_folder} and
    L{config_file}.

    @ivar given: the flags that were given, for L{Declaration.resolve}.
    """

    optParameters = (
        ("data-dir", "d", None, "Folder of keys and data [default: $MESHKIT_HOME, else XDG]"),
        ("config", "c", None, f"Configuration file [default: {CONFIG_FILE} in the data folder]"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, str | bool | list[str]] = {}


def _flag_methods(setting: Setting) -> dict[str, Any]:
    """The C{opt_} methods by which C{usage.Options} learns of one setting."""
    flag = setting.flag
    if flag is None:
        return {}
    name = "opt_" + flag.replace("-", "_")

    if setting.boolean:

        def switch_on(self: SettingsOptions) -> None:
            self.given[flag] = True

        def switch_off(self: SettingsOptions) -> None:
            self.given[flag] = False

        switch_on.__doc__ = setting.help
        switch_off.__doc__ = f"The opposite of --{flag}."
        return {name: switch_on, "opt_no_" + flag.replace("-", "_"): switch_off}

    if setting.many:

        def add(self: SettingsOptions, value: str) -> None:
            so_far = self.given.setdefault(flag, [])
            assert isinstance(so_far, list)
            so_far.append(value)

        add.__doc__ = f"{setting.help} (may be repeated)"
        return {name: add}

    def put(self: SettingsOptions, value: str) -> None:
        self.given[flag] = value

    put.__doc__ = setting.help
    return {name: put}


class Declaration(Generic[_Root]):
    """
    All settings of one daemon.

    @ivar settings: them, top level first, sections by name.
    @ivar tables: the lists of tables, sections by name.
    """

    def __init__(
        self,
        root: type[_Root],
        sections: Mapping[str, type[msgspec.Struct]] = MappingProxyType({}),
        *,
        ignored_environment: Collection[str] = IGNORED_ENVIRONMENT,
    ) -> None:
        """
        @param root: the settings at the top level.
        @param sections: the sections; for a part, its name and C{config_type()}.
        @param ignored_environment: variables that begin with C{MESHKIT_} and mean
            something else.
        @raise TypeError: if a field cannot be a setting.
        @raise PartConflict: if two settings would get the same flag or variable.
        """
        self._root = root
        self._sections = {name: sections[name] for name in sorted(sections)}
        self._ignored = frozenset(ignored_environment)
        found = [*declare_all(None, root)]
        for name, struct in self._sections.items():
            found += declare_all(name, struct)
        declared = [each for each in found if isinstance(each, Setting)]
        self.settings: tuple[Setting, ...] = tuple(declared)
        self.tables: tuple[Table, ...] = tuple(each for each in found if isinstance(each, Table))
        self._by_table = {table.key: table for table in self.tables}
        self._by_key = {setting.key: setting for setting in declared}
        self._by_flag = self._index_flags()
        self._by_environment: dict[str, Setting] = {}
        for setting in declared:
            if setting.key in self._sections:
                raise PartConflict(f"{setting.key} is both a setting and a section")
            other = self._by_environment.setdefault(setting.environment, setting)
            if other is not setting:
                raise PartConflict(
                    f"{other.key} and {setting.key} would both be {setting.environment}"
                )
            if setting.environment in self._ignored:
                raise PartConflict(f"{setting.environment} is taken: rename {setting.key}")

    def _index_flags(self) -> dict[str, Setting]:
        taken: dict[str, str] = dict.fromkeys(_TAKEN_FLAGS, "every daemon")
        by_flag: dict[str, Setting] = {}
        for setting in self.settings:
            if setting.flag is None:
                continue
            for flag in (setting.flag, f"no-{setting.flag}")[: 1 + setting.boolean]:
                if flag in taken:
                    raise PartConflict(f"{taken[flag]} and {setting.key} both have --{flag}")
                taken[flag] = setting.key
            by_flag[setting.flag] = setting
        return by_flag

    def options_class(self) -> type[SettingsOptions]:
        """A C{usage.Options} with a flag for each setting, for a daemon to inherit."""
        methods: dict[str, Any] = {"__doc__": "Options made from the declared settings."}
        for setting in self.settings:
            methods |= _flag_methods(setting)
        return type("Options", (SettingsOptions,), methods)

    def resolve(
        self,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
        file: tuple[str, bytes] | None = None,
    ) -> Settings[_Root]:
        """
        Find the value of every setting.

        @param flags: what the command line gave: L{SettingsOptions.given}.
        @param environ: the process environment.
        @param file: path and content of the configuration file, if there is one.
        @raise ConfigError: if a name is unknown or a value not allowed.  The message
            names the place, the setting and what is allowed.
        """
        values: dict[str, Any] = {setting.key: setting.default for setting in self.settings}
        values |= {table.key: () for table in self.tables}
        origins: dict[str, str] = dict.fromkeys(values, "default")
        if file is not None:
            for key, value in self._from_file(*file).items():
                values[key], origins[key] = value, f"file {file[0]}"
        for key, value in self._from_environment(environ).items():
            origin = f"environment {self._by_key[key].environment}"
            values[key], origins[key] = value, origin
        for key, value in self._from_flags(flags).items():
            values[key], origins[key] = value, f"flag --{self._by_key[key].flag}"
        root = self._build(self._root, None, values, origins)
        built = {
            name: self._build(struct, name, values, origins)
            for name, struct in self._sections.items()
        }
        return Settings(self.settings, self.tables, root, built, origins)

    def _build(
        self,
        struct: type[Any],
        section: str | None,
        values: Mapping[str, Any],
        origins: Mapping[str, str],
    ) -> Any:
        declared: tuple[Setting | Table, ...] = (*self.settings, *self.tables)
        mine = [each for each in declared if each.section == section]
        try:
            return struct(**{each.field: values[each.key] for each in mine})
        except ValueError as error:
            # Raised by the Struct's own __post_init__, about values that do not go
            # together.
            given = [
                f"{each.key} from {origins[each.key]}"
                for each in mine
                if origins[each.key] != "default"
            ]
            where = f" ({', '.join(given)})" if given else ""
            raise ConfigError(f"{error}{where}") from None

    def _from_flags(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for flag, given in flags.items():
            setting = self._by_flag.get(flag)
            if setting is None:
                hint = _hint(flag, self._by_flag, "--")
                raise ConfigError(f"there is no flag --{flag}: {hint}")
            try:
                values[setting.key] = setting._parse(given)
            except _Unusable:
                raise _refusal(f"flag --{flag}", setting, given) from None
        return values

    def _from_environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in sorted(environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in self._ignored:
                continue
            setting = self._by_environment.get(name)
            if setting is None:
                # Without the prefix, which would make all names look alike.
                known = [
                    each.removeprefix(ENVIRONMENT_PREFIX)
                    for each in (*self._by_environment, *sorted(self._ignored))
                ]
                hint = _hint(name.removeprefix(ENVIRONMENT_PREFIX), known, ENVIRONMENT_PREFIX)
                raise ConfigError(f"the environment variable {name} means nothing here: {hint}")
            try:
                values[setting.key] = setting._parse(environ[name])
            except _Unusable:
                raise _refusal(f"environment {name}", setting, environ[name]) from None
        return values

    def _from_file(self, path: str, data: bytes) -> dict[str, Any]:
        if len(data) > MAX_CONFIG_FILE:
            raise ConfigError(f"{path} has {len(data)} bytes: at most {MAX_CONFIG_FILE} are read")
        try:
            text = data.decode("utf-8")
            document = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: see byte {error.start}") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not a TOML file: {error}") from None
        except RecursionError:
            raise ConfigError(f"{path} is nested too deep to be a configuration file") from None
        values: dict[str, Any] = {}
        for name, content in document.items():
            if name not in self._sections:
                self._take(values, path, text, (name,), content)
            elif isinstance(content, dict):
                for field, value in content.items():
                    self._take(values, path, text, (name, field), value)
            else:
                where = _place(path, text, (name,))
                raise ConfigError(f"{where}: {name} is a section: write [{name}] once, above it")
        return values

    def _take(
        self, values: dict[str, Any], path: str, text: str, names: tuple[str, ...], value: Any
    ) -> None:
        key = ".".join(names)
        # A quoted TOML key may hold dots itself: "a.b" is not b in [a].
        plain = not any("." in name for name in names)
        setting = self._by_key.get(key) if plain else None
        if plain and key in self._by_table:
            values[key] = self._rows(self._by_table[key], path, text, names, value)
        elif setting is not None:
            try:
                values[key] = setting._check(value)
            except _Unusable:
                raise _refusal(_place(path, text, names), setting, value) from None
        elif len(names) == 1 and isinstance(value, dict):
            hint = _hint(key, self._sections)
            where = _place(path, text, names)
            raise ConfigError(f"{where}: there is no section [{_clean(key)}]: {hint}")
        else:
            hint = _hint(key, [*self._by_key, *self._by_table])
            where = _place(path, text, names)
            raise ConfigError(f"{where}: there is no setting {_clean(key)}: {hint}")

    def _rows(
        self, table: Table, path: str, text: str, names: tuple[str, ...], given: Any
    ) -> tuple[Any, ...]:
        """The tables of a list, as the file gives them."""
        where = _place(path, text, names)
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise ConfigError(
                f"{where}: {table.key} is a list of tables: write [[{table.key}]] above each"
            )
        if len(given) > table.most:
            raise ConfigError(f"{where}: there are more than {table.most} of [[{table.key}]]")
        columns = {column.field: column for column in table.columns}
        rows = []
        for number, fields in enumerate(given):
            values = {}
            for name, value in fields.items():
                at = _place(path, text, (*names, number, name))
                if name not in columns:
                    hint = _hint(name, columns)
                    raise ConfigError(
                        f"{at}: there is no setting {_clean(name)} in [[{table.key}]]: {hint}"
                    )
                try:
                    values[name] = columns[name]._check(value)
                except _Unusable:
                    raise _refusal(at, columns[name], value) from None
            at = _place(path, text, (*names, number))
            missing = sorted(table.required - values.keys())
            if missing:
                raise ConfigError(f"{at}: [[{table.key}]] lacks {', '.join(missing)}")
            try:
                rows.append(table.struct(**values))
            except ValueError as error:
                raise ConfigError(f"{at}: [[{table.key}]]: {error}") from None
        return tuple(rows)


@frozen(repr=False)
class Settings(Generic[_Root]):
    """
    The settings a daemon runs with.

    @ivar root: the settings at the top level.
    """

    _settings: tuple[Setting, ...]
    _tables: tuple[Table, ...]
    root: _Root
    _sections: Mapping[str, Any]
    _origins: Mapping[str, str]

    def section(self, name: str) -> Any:
        """
        @return: the Struct of a section, of the type that was declared for it.
        @raise KeyError: if there is no such section.
        """
        return self._sections[name]

    def origin(self, key: str) -> str:
        """
        Where the value of a setting comes from.

        @return: C{flag --NAME}, C{environment NAME}, C{file PATH} or C{default}.
        @raise ConfigError: if there is no such setting.
        """
        try:
            return self._origins[key]
        except KeyError:
            hint = _hint(key, self._origins)
            raise ConfigError(f"there is no setting {_clean(key)}: {hint}") from None

    def show(self) -> list[ShownSetting]:
        """Every setting with its value and origin, secrets masked."""
        rows = []
        for setting in self._settings:
            struct = self.root if setting.section is None else self._sections[setting.section]
            value = getattr(struct, setting.field)
            text = setting.show(value)
            rows.append(
                ShownSetting(
                    key=setting.key,
                    value=_MASK if setting.secret and text else value,
                    text=text,
                    origin=self._origins[setting.key],
                    description=setting.description,
                )
            )
        for table in self._tables:
            given = getattr(self._sections[table.section], table.field)
            rows.append(
                ShownSetting(
                    key=table.key,
                    value=table.masked(given),
                    text=table.show(given),
                    origin=self._origins[table.key],
                    description=table.description,
                )
            )
        return rows

    def __repr__(self) -> str:
        given = sorted(key for key, origin in self._origins.items() if origin != "default")
        return f"<Settings given={given}>"


def _refusal(where: str, setting: Setting, value: object) -> ConfigError:
    # The value of a secret stays out of messages, as these end in logs.
    shown = "cannot be used" if setting.secret else f"is {_quoted(value)}"
    return ConfigError(f"{where}: {setting.key} {shown}; it has to be {setting.allowed}")


def _clean(name: str) -> str:
    """A name out of a file or argument, safe and short enough to print."""
    return name if name.isprintable() and len(name) <= _SHOWN_CHARACTERS else _quoted(name)


def _hint(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The nearest name that exists, or all of them."""
    names = list(known)
    # The right word in the wrong section is the commonest mistake of all: what
    # follows a [section] belongs to it, to the end of the file.
    field = name.rpartition(".")[2]
    same = [each for each in names if each.rpartition(".")[2] == field]
    near = same or get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"there are {', '.join(prefix + each for each in names)}" if names else "there are none"


def _place(path: str, text: str, names: Sequence[str | int]) -> str:
    line = _line_of(text, names)
    return path if line is None else f"{path}, line {line}"


def _line_of(text: str, names: Sequence[str | int]) -> int | None:
    """
    The line on which a name of a TOML document is first given a value.

    @param names: keys, from the outermost, and places in lists.

    tomllib keeps no positions.  But a document cut after a whole statement is a
    document: the line looked for is one after which, and not before which, the name
    is there.
    """
    lines = text.split("\n")
    (*_, last) = (name for name in names if isinstance(name, str))
    for start, line in enumerate(lines):
        if last not in line:
            continue
        for end in range(start + 1, len(lines) + 1):
            try:
                found: Any = tomllib.loads("\n".join(lines[:end]))
            except tomllib.TOMLDecodeError:
                continue
            for name in names:
                if isinstance(name, int):
                    within = isinstance(found, list) and name < len(found)
                    found = found[name] if within else None
                else:
                    found = found.get(name) if isinstance(found, dict) else None
            if found is not None:
                return start + 1
            break
    return None


def data_folder(
    flag: str | None, environ: Mapping[str, str], home: str, name: str = "meshkit"
) -> str:
    """
    Where a daemon keeps its keys and data: the flag, else C{$MESHKIT_HOME}, else
    C{$XDG_DATA_HOME/meshkit}, else C{~/.local/share/meshkit} (XDG Base Directory
    Specification 0.8, which counts an empty or relative variable as unset).

    @param flag: the value of C{--data-dir}, or L{None}.
    @param environ: the process environment.
    @param home: the user's home folder; a leading C{~/} stands for it.
    @param name: what stands in the place of C{meshkit} in these, so that two daemons of one
        user do not take the same folder.
    @return: a path, relative only if the flag or C{$MESHKIT_HOME} is.
    @raise ConfigError: if the flag is empty.
    """
    if flag is not None and not flag.strip():
        raise ConfigError("flag --data-dir is empty: name a folder, or leave the flag out")
    chosen = flag or environ.get("MESHKIT_HOME")
    if chosen:
        # systemd and quoted arguments hand the tilde on as it is.
        return os.path.join(home, chosen[2:]) if chosen.startswith("~/") else chosen
    xdg = environ.get("XDG_DATA_HOME", "")
    parent = xdg if os.path.isabs(xdg) else os.path.join(home, ".local", "share")
    return os.path.join(parent, name)


def config_file(flag: str | None, folder: str, files: IFiles) -> tuple[str, bytes] | None:
    """
    Read the configuration file: the one that C{--config} names, else the one in the
    data folder, if it is there.

    @param flag: the value of C{--config}, or L{None}.
    @param folder: see L{data_folder}.
    @return: path and content for L{Declaration.resolve}, or L{None} if the flag is not
        given and the data folder has no such file.
    @raise ConfigError: if it cannot be read.
    """
    path = os.path.join(folder, CONFIG_FILE) if flag is None else flag
    try:
        return path, files.read(path, MAX_CONFIG_FILE)
    except FileNotFoundError:
        if flag is None:
            return None
        raise ConfigError(f"there is no configuration file {path}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"the configuration file {path} cannot be read: {reason}") from None
