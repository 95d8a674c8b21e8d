"""Tests of L{meshkit.cli.object}."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import stat
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from attrs import evolve
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase
from zfec import filefec

from meshkit.cli.main import cli
from meshkit.cli.object import folders, keys, whole_files
from meshkit.errors import (
    ConfigError,
    InvalidPublicKey,
    MeshkitError,
    NoKeyFor,
    NotEnoughShares,
    NotFound,
    ObjectKeyWrong,
    ObjectMismatch,
    SharesInvalid,
    UnsafePermissions,
    WrongPassphrase,
)
from meshkit.identity.keys import Identity
from meshkit.identity.passphrase import Cost
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import load_identity, load_storage_secret
from meshkit.storage.capability import ReadCapability, expect_capability
from meshkit.storage.placement_document import placement_seed
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.files import FileShardStore
from meshkit.storage.share_files import ShareFile, ShareWriter
from tests.runtime.support import scratch
from tests.storage.objects import make_header
from tests.storage.shelves import Shelf
from tests.storage.test_share_files import files_of

DATA = Random(5).randbytes(100_000)


class ObjectCase(SynchronousTestCase):
    """A file, and places for its shares."""

    def setUp(self) -> None:
        self.scratch = Path(scratch(self))
        self.home = str(self.scratch / "home")
        self.shares = self.scratch / "shares"
        self.out = self.scratch / "out"
        self.file = self.scratch / "file.bin"
        self.file.write_bytes(DATA)
        self.patch(keys, "COST", Cost(passes=1, memory_kib=8))

    def run_cli(self, *words: Any, **kwargs: Any) -> Result:
        return CliRunner().invoke(cli, ["-d", self.home, "object", *map(str, words)], **kwargs)

    def good(self, *words: Any, **kwargs: Any) -> Result:
        done = self.run_cli(*words, **kwargs)
        self.assertEqual((done.exit_code, done.exception), (0, None), done.output)
        return done

    def refused(self, error: type[MeshkitError], text: str, *words: Any) -> None:
        done = self.run_cli(*words)
        self.assertIsInstance(done.exception, error, done.output)
        self.assertRegex(str(done.exception), text)

    def misused(self, text: str, *words: Any) -> None:
        done = self.run_cli(*words)
        self.assertEqual(done.exit_code, 2, done.output)
        self.assertIn(text, done.output)

    def encode(self, *words: Any) -> Any:
        """@return: what is said of it."""
        return json.loads(self.good("encode", self.file, self.shares, "--json", *words).stdout)

    def decode(self, *words: Any) -> Any:
        """The file is what it was.  @return: what is said of it."""
        told = json.loads(self.good("decode", self.shares, "-o", self.out, "--json", *words).stdout)
        self.assertEqual(self.out.read_bytes(), DATA)
        self.out.unlink()
        return told

    def secret(self, text: str) -> str:
        """@return: a descriptor from which a passphrase can be read."""
        reading, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)

        def close() -> None:
            with contextlib.suppress(OSError):
                os.close(reading)

        self.addCleanup(close)
        return str(reading)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.shares))


class RoundTrip(ObjectCase):
    def test_a_file_is_cut_and_put_together_again(self) -> None:
        told = self.encode()
        self.assertEqual((told["bytes"], told["scheme"], len(told["shares"])), (100_000, "6+3", 9))
        self.assertEqual(self.names(), [f"{number}.mkshare" for number in range(9)])
        self.assertEqual(told["shares"], [str(self.shares / name) for name in self.names()])
        for name in ("0.mkshare", "3.mkshare", "8.mkshare"):
            (self.shares / name).unlink()
        found = self.decode()
        self.assertEqual(found, {"object": told["object"], "bytes": 100_000, "faults": []})

    def test_for_people(self) -> None:
        done = self.good("encode", self.file, self.shares, "--scheme", "1+1")
        self.assertRegex(done.output, r"^Object [0-9a-f]{64}, 100000 bytes.\nWrote 2 shares into ")
        self.assertIn("any 1 suffice", done.output)
        self.assertIn("Keep a copy of it apart", done.output)
        done = self.good("decode", self.shares, "-o", self.out)
        self.assertEqual(done.output, f"Wrote {self.out}, 100000 bytes.\n")

    def test_the_file_is_in_no_share(self) -> None:
        self.encode("--scheme", "1+0")
        share = (self.shares / "0.mkshare").read_bytes()
        self.assertFalse(any(DATA[at : at + 16] in share for at in range(0, len(DATA), 1_000)))

    def test_standard_input_and_output(self) -> None:
        self.good("encode", "-", self.shares, input=DATA)
        done = self.good("decode", self.shares, "-o", "-")
        self.assertEqual(done.stdout_bytes, DATA)

    def test_an_empty_file(self) -> None:
        self.file.write_bytes(b"")
        self.encode()
        self.good("decode", self.shares, "-o", self.out)
        self.assertEqual(self.out.read_bytes(), b"")

    def test_shares_have_any_names_and_places(self) -> None:
        self.encode("--scheme", "2+2")
        one, other = self.scratch / "one", self.scratch / "b" / "other.mkshare"
        other.parent.mkdir()
        (self.shares / "3.mkshare").rename(one)
        (self.shares / "1.mkshare").rename(other)
        for words in ((one, other), (one, other.parent)):
            self.good("decode", *words, "-o", self.out)
            self.assertEqual(self.out.read_bytes(), DATA)
            self.out.unlink()

    def test_the_disks_of_storage_peers_are_folders_of_shares(self) -> None:
        told = self.encode("--scheme", "3+2")
        peers = self.scratch / "peers"
        for number, share in enumerate(sorted(self.shares.iterdir())):
            name = sha256(share.name.encode()).digest()
            store = FileShardStore(str(peers / f"{number}" / "keeper"))
            store.open()
            writer = store.begin(name)
            writer.append(share.read_bytes())
            writer.commit(b"", b"note")
            if number == 0:
                store.set_aside(name, "perhaps")
            if number == 4:
                store.remove(name)
            share.unlink()
        self.shares = peers
        self.assertEqual(self.decode(), {"object": told["object"], "bytes": 100_000, "faults": []})
        with mock.patch("os.scandir", side_effect=PermissionError(13, "no", "a folder")):
            done = self.run_cli("decode", self.shares, "-o", self.out)
        self.assertIsInstance(done.exception, PermissionError)

    def test_among_the_shares_of_many_objects_those_are_found_that_the_key_is_for(self) -> None:
        told = self.encode("--scheme", "3+2")
        others = self.scratch / "shares" / "of" / "others"
        others.mkdir(parents=True)
        for seed in range(64):
            header = make_header(Scheme(1, 4, 4096), seed)
            files = files_of(Shelf(b"x" * 5000, header[0].scheme, header=header))
            for number, file in enumerate(files):
                (others / f"{seed}.{number}.mkshare").write_bytes(file)
        (others / "cut.mkshare").write_bytes(b"mkshare1")
        # More than may be open at once.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
        self.assertEqual(self.decode()["object"], told["object"])
        key = keys.key_path(self.home, bytes.fromhex(told["object"]))
        self.assertEqual(self.decode("--key-file", key)["object"], told["object"])
        for share in self.shares.glob("*.mkshare"):
            share.unlink()
        words = ("decode", self.shares, "-o", self.out, "--key-file", key)
        self.refused(NotEnoughShares, "none of 257 files is a share of the object", *words)

    def test_every_codec_reads_what_another_wrote(self) -> None:
        self.encode("--codec", "python")
        (self.shares / "2.mkshare").unlink()
        self.decode("--codec", "zfec")
        self.decode("--codec", "auto")


class Damage(ObjectCase):
    def test_what_was_changed_is_named_and_done_without(self) -> None:
        self.encode()
        spoilt = self.shares / "2.mkshare"
        data = bytearray(spoilt.read_bytes())
        data[99] ^= 1
        spoilt.write_bytes(data)
        (self.shares / "4.mkshare").write_bytes(b"nothing")
        found = self.decode()
        self.assertEqual(
            [Path(fault["file"]).name for fault in found["faults"]], ["4.mkshare", "2.mkshare"]
        )
        done = self.good("decode", self.shares, "-o", self.out)
        self.assertIn("2.mkshare was changed, in segment 0", done.stderr)

    def test_an_object_whose_maker_cheats_leaves_no_file(self) -> None:
        """Its shares are those of another text than its tree: another reader gets that one."""
        shelf, other = Shelf(DATA[:500]), Shelf(DATA[500:1_000])
        shelf.manifest = evolve(shelf.manifest, root=other.manifest.root)
        self.shares.mkdir()
        for number, data in enumerate(files_of(shelf)):
            (self.shares / f"{number}.mkshare").write_bytes(data)
        place = self.scratch / "key"
        place.write_text(ReadCapability(shelf.manifest.content_id, shelf.key).text)
        place.chmod(0o600)
        self.refused(
            ObjectMismatch,
            "made its shares of several",
            *("decode", self.shares, "-o", self.out, "--key-file", place),
        )
        self.assertEqual(sorted(os.listdir(self.scratch)), ["file.bin", "key", "shares"])

    def test_too_few_leave_no_file(self) -> None:
        self.encode()
        for number in range(4):
            (self.shares / f"{number}.mkshare").unlink()
        self.refused(
            NotEnoughShares, "6 shares are needed, and 5 are", "decode", self.shares, "-o", self.out
        )
        self.assertEqual(sorted(os.listdir(self.scratch)), ["file.bin", "home", "shares"])

    def test_no_shares_at_all(self) -> None:
        self.shares.mkdir()
        self.refused(NotFound, "there are no shares in", "decode", self.shares, "-o", self.out)
        self.refused(NotEnoughShares, "none of 1 files", "decode", self.file, "-o", self.out)


class Keys(ObjectCase):
    def test_the_key_is_in_the_data_folder_and_nowhere_else(self) -> None:
        told = self.encode()
        path = Path(told["key_file"])
        self.assertEqual(path, Path(self.home) / "object-keys" / f"{told['object']}.key")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        capability = expect_capability(path.read_text("ascii"), ReadCapability)
        self.assertEqual(capability.content_id.hex(), told["object"])
        for share in self.shares.iterdir():
            self.assertNotIn(capability.key, share.read_bytes())
        path.unlink()
        self.refused(NotFound, "there is no key at", "decode", self.shares, "-o", self.out)

    def test_a_key_file_of_its_own(self) -> None:
        place = self.scratch / "usb" / "mine"
        self.encode("--key-file", place)
        self.assertFalse((Path(self.home) / "object-keys").exists())
        self.home = str(self.scratch / "elsewhere")
        self.decode("--key-file", place)
        place.chmod(0o644)
        self.refused(
            UnsafePermissions, "chmod", "decode", self.shares, "-o", self.out, "--key-file", place
        )

    def test_a_key_is_never_put_in_the_place_of_another(self) -> None:
        place = self.scratch / "mine"
        place.write_text("precious")
        self.refused(
            ConfigError,
            "never put in the place",
            "encode",
            self.file,
            self.shares,
            "--key-file",
            place,
        )
        self.assertEqual(place.read_text(), "precious")
        self.assertFalse(self.shares.exists())

    def test_under_a_passphrase(self) -> None:
        told = self.encode("--passphrase-fd", self.secret("herons wade\n"))
        self.assertNotIn("mkread1", Path(told["key_file"]).read_text("ascii"))
        self.decode("--passphrase-fd", self.secret("herons wade"))
        self.refused(
            WrongPassphrase,
            "passphrase",
            *("decode", self.shares, "-o", self.out, "--passphrase-fd", self.secret("owls wade")),
        )

    def test_for_an_identity(self) -> None:
        other = DataFolder(str(self.scratch / "other"), LocalFiles())
        other.prepare()
        identity = load_identity(other, Random(1))
        told = self.encode("--recipient", identity.public.text)
        self.refused(NotFound, "none in", "decode", self.shares, "-o", self.out)
        load_identity(DataFolder(self.home, LocalFiles()), Random(2))
        self.refused(NoKeyFor, identity.public.text, "decode", self.shares, "-o", self.out)
        self.home = other.path
        self.decode("--key-file", told["key_file"])

    def test_the_key_of_another_object(self) -> None:
        mine, other = self.scratch / "mine", self.scratch / "other"
        self.encode("--key-file", mine)
        self.good("encode", self.file, other, "--key-file", self.scratch / "theirs")
        self.refused(
            NotEnoughShares,
            "none of 9 files is a share of the object",
            *("decode", other, "-o", self.out, "--key-file", mine),
        )
        # The right object with another key.
        right = expect_capability((self.scratch / "theirs").read_text(), ReadCapability)
        (self.scratch / "forged").write_text(ReadCapability(right.content_id, bytes(32)).text)
        (self.scratch / "forged").chmod(0o600)
        self.refused(
            ObjectKeyWrong,
            "not that of the object",
            "decode",
            other,
            "-o",
            self.out,
            "--key-file",
            self.scratch / "forged",
        )
        self.assertFalse(self.out.exists())

    def test_what_is_no_key(self) -> None:
        self.encode()
        place = self.scratch / "junk"
        for data in (b"", b"\xff", b"{}", b'{"meshkit": 1', b"mkread1-aaaa", b"hello"):
            place.write_bytes(data)
            place.chmod(0o600)
            done = self.run_cli("decode", self.shares, "-o", self.out, "--key-file", place)
            self.assertIsInstance(done.exception, MeshkitError, data)
            self.assertIn(
                getattr(done.exception, "code", None),
                ("CAPABILITY_INVALID", "OBJECT_KEY_FILE_INVALID"),
            )

    def test_the_owner_can_say_where_the_shares_are(self) -> None:
        """The key for that follows from a secret in the data folder."""
        self.encode()
        secret = load_storage_secret(DataFolder(self.home, LocalFiles()), Random(0))
        with (self.shares / "0.mkshare").open("rb") as file:
            header = ShareFile("0", file).manifest.header
        seed = placement_seed(secret, header.upload)
        self.assertEqual(Identity(seed).public, header.placement)

    def test_a_damaged_secret_is_told(self) -> None:
        self.encode()
        path = Path(self.home) / "storage.secret"
        for text in ("", "abc", "00" * 31, "zz" * 32):
            path.write_text(text)
            self.refused(ConfigError, "storage.secret is damaged", "encode", self.file, self.out)


class Whole(ObjectCase):
    """Nothing has its name before it is whole."""

    def interrupted(self, *words: Any) -> None:
        done = self.run_cli(*words)
        self.assertIsInstance(done.exception, ZeroDivisionError)

    def test_an_encode_that_is_interrupted_leaves_nothing(self) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            self.seen = self.names()
            raise ZeroDivisionError

        self.patch(folders, "write_key", fail)
        self.interrupted("encode", self.file, self.shares, "--scheme", "1+1")
        # All was there but for its names.
        self.assertEqual(self.seen, ["0.mkshare.part", "1.mkshare.part"])
        self.assertEqual(self.names(), [])

    def test_everything_is_synced_before_it_has_a_name(self) -> None:
        done: list[str] = []
        fsync, rename = os.fsync, os.rename

        def note_fsync(descriptor: int) -> None:
            done.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        def note_rename(old: str, new: str) -> None:
            done.append("name " + os.path.basename(new))
            rename(old, new)

        self.encode("--scheme", "1+1")
        self.patch(os, "fsync", note_fsync)
        self.patch(os, "rename", note_rename)
        other = self.scratch / "other"
        self.good("encode", self.file, other, "--scheme", "1+1", "--key-file", self.scratch / "k")
        shares = [each for each in done if "mkshare" in each or each == "sync other"]
        self.assertEqual(
            shares,
            [
                "sync 0.mkshare.part",
                "sync 1.mkshare.part",
                "name 0.mkshare",
                "name 1.mkshare",
                "sync other",
            ],
        )
        # The key is durable before the shares can be taken for an object.
        self.assertLess(done.index(f"sync {self.scratch.name}"), done.index("name 0.mkshare"))

    def test_a_decode_that_is_interrupted_leaves_nothing(self) -> None:
        self.encode("--scheme", "1+0")

        def broken(*args: Any) -> Iterator[bytes]:
            yield b"beginning"
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            whole_files.write_whole(str(self.out), broken())
        self.assertEqual(sorted(os.listdir(self.scratch)), ["file.bin", "home", "shares"])

    def test_a_disk_that_is_full_is_told_and_nothing_is_left(self) -> None:
        self.encode("--scheme", "1+0")

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        other = self.scratch / "other"
        self.patch(ShareWriter, "write", full)
        self.patch(whole_files, "_write_all", full)
        for words in (
            ("encode", self.file, other, "--scheme", "1+0"),
            ("decode", self.shares, "-o", self.out),
            ("decode", self.shares, "-o", "-"),
        ):
            done = self.run_cli(*words)
            self.assertIsInstance(done.exception, OSError, words)
        self.assertEqual(sorted(os.listdir(self.scratch)), ["file.bin", "home", "other", "shares"])
        self.assertEqual(os.listdir(other), [])

    def test_what_is_written_behind_is_written_in_order(self) -> None:
        written: list[int] = []
        with whole_files.Behind() as behind:
            for number in range(100):
                behind.do(partial(written.append, number))
            behind.wait()
            self.assertEqual(written, list(range(100)))
            behind.do(partial(int, "no number"))
            self.assertRaises(ValueError, behind.do, partial(written.append, 100))
            behind.wait()
        self.assertEqual(written, list(range(100)))

    def test_nothing_is_overwritten_or_mixed_up(self) -> None:
        self.encode()
        self.refused(ConfigError, "has shares already", "encode", self.file, self.shares)
        self.out.write_bytes(b"mine")
        self.refused(ConfigError, "name another file", "decode", self.shares, "-o", self.out)
        self.assertEqual(self.out.read_bytes(), b"mine")
        part = self.scratch / "new.part"
        part.write_bytes(b"somebody's")
        self.refused(ConfigError, "remove it", "decode", self.shares, "-o", self.scratch / "new")
        self.assertEqual(part.read_bytes(), b"somebody's")

    def test_what_somebody_else_writes_is_left_alone(self) -> None:
        self.shares.mkdir()
        (self.shares / "5.mkshare.part").write_bytes(b"theirs")
        self.refused(ConfigError, "5.mkshare.part exists", "encode", self.file, self.shares)
        self.assertEqual(self.names(), ["5.mkshare.part"])


class Zfec(ObjectCase):
    def test_the_program_reads_them_and_so_does_decode(self) -> None:
        told = json.loads(
            self.good(
                *("encode", self.file, self.shares, "--zfec", "--scheme", "3+2", "--json")
            ).stdout
        )
        self.assertEqual(self.names(), [f"file.bin.{number}_5.fec" for number in range(5)])
        self.assertEqual([Path(path).name for path in told["shares"]], self.names())
        self.assertFalse(os.path.exists(self.home))
        for name in self.names()[:2]:
            (self.shares / name).unlink()
        out = BytesIO()
        files = [path.open("rb") for path in sorted(self.shares.iterdir())]
        for file in files:
            self.addCleanup(file.close)
        filefec.decode_from_files(out, files)
        self.assertEqual(out.getvalue(), DATA)
        self.assertEqual(self.decode(), {"bytes": 100_000})

    def test_a_change_is_told_where_it_can_be_seen(self) -> None:
        self.good("encode", self.file, self.shares, "--zfec", "--scheme", "2+2")
        path = self.shares / "file.bin.1_4.fec"
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
        self.refused(SharesInvalid, "contradict", "decode", self.shares, "-o", self.out)
        self.assertFalse(self.out.exists())
        path.write_bytes(b"")
        self.refused(SharesInvalid, "1_4.fec: .*cut off", "decode", self.shares, "-o", self.out)
        path.unlink()
        self.decode()

    def test_there_is_no_key(self) -> None:
        for words in (("--key-file", "x"), ("--passphrase",), ("--recipient", "x")):
            self.misused("not encrypted", "encode", self.file, self.shares, "--zfec", *words)
        self.misused("length first", "encode", "-", self.shares, "--zfec")
        self.good("encode", self.file, self.shares, "--zfec")
        self.misused("not encrypted", "decode", self.shares, "-o", self.out, "--key-file", "x")


class Misuse(ObjectCase):
    def test_what_cannot_be(self) -> None:
        self.misused("does not exist", "encode", self.scratch / "no", self.shares)
        self.misused("does not exist", "decode", self.scratch / "no", "-o", self.out)
        self.misused("Missing option", "decode", self.file)
        self.misused("--json", "decode", self.file, "-o", "-", "--json")
        self.misused("raptor", "encode", self.file, self.shares, "--codec", "raptor")
        self.refused(ConfigError, "6\\+3", "encode", self.file, self.shares, "--scheme", "six")
        self.refused(ConfigError, "at least 1", "encode", self.file, self.shares, "--scheme", "0+3")
        self.refused(InvalidPublicKey, "me", "encode", self.file, self.shares, "--recipient", "me")
        self.assertFalse(self.shares.exists())
