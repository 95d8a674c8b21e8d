"""A file that is got has its name when it is whole, and takes nobody else's."""

from __future__ import annotations

import errno
import os
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import TargetExists
from meshkit.runtime.files import LocalSystem
from meshkit.storage.objects.target import TargetFile


class Recording(LocalSystem):
    """The disk, whose calls are written down, and one of which may fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: str | None = None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in ("open", "write", "fsync", "link", "rename", "unlink", "close"):

            def call(*arguments: Any) -> Any:
                self.calls.append(name)
                if name == self.failing:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return found(*arguments)

            return call
        return found


class TargetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = mkdtemp()
        self.addCleanup(rmtree, self.folder)
        self.path = os.path.join(self.folder, "file")
        self.system = Recording()

    def new(self, *, replace: bool = False) -> TargetFile:
        return TargetFile(self.path, "t1", replace, self.system)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def content(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()

    def precious(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b"precious")

    def test_it_has_its_name_when_it_is_synced_and_not_before(self) -> None:
        target = self.new()
        target.open()
        target.write(b"a grey ")
        target.write(b"heron")
        self.assertEqual(self.names(), [".file.t1.part"])
        target.commit()
        self.assertEqual((self.names(), self.content()), (["file"], b"a grey heron"))
        calls = [each for each in self.system.calls if each in ("write", "fsync", "link", "unlink")]
        # The last sync is that of the folder.
        self.assertEqual(calls, ["unlink", "write", "write", "fsync", "link", "unlink", "fsync"])

    def test_a_file_that_is_there_stays(self) -> None:
        self.precious()
        self.assertRaises(TargetExists, self.new().open)
        self.assertEqual((self.names(), self.content()), (["file"], b"precious"))

    def test_one_that_comes_meanwhile_stays_as_well(self) -> None:
        target = self.new()
        target.open()
        target.write(b"x")
        self.precious()
        self.assertRaises(TargetExists, target.commit)
        target.discard()
        self.assertEqual((self.names(), self.content()), (["file"], b"precious"))

    def test_if_it_is_to_be_replaced_that_is_one_step(self) -> None:
        self.precious()
        target = self.new(replace=True)
        target.open()
        target.write(b"new")
        self.assertEqual(self.content(), b"precious")
        target.commit()
        self.assertEqual((self.names(), self.content()), (["file"], b"new"))

    def test_what_a_kill_has_left_is_written_anew(self) -> None:
        self.new().open()
        again = self.new()
        again.open()
        again.write(b"whole")
        again.commit()
        self.assertEqual((self.names(), self.content()), (["file"], b"whole"))

    def test_a_full_disk_is_told_with_the_name_and_leaves_nothing(self) -> None:
        for failing in ("open", "write", "fsync", "link"):
            with self.subTest(failing):
                target = self.new()
                self.system.failing = failing
                with self.assertRaises(OSError) as caught:
                    target.open()
                    target.write(b"x")
                    target.commit()
                self.assertEqual(caught.exception.filename, self.path)
                self.system.failing = None
                target.discard()
                target.discard()
                self.assertEqual(self.names(), [])

    def test_a_folder_is_not_replaced(self) -> None:
        os.mkdir(self.path)
        self.assertRaises(IsADirectoryError, self.new(replace=True).open)
        self.assertRaises(TargetExists, self.new().open)

    def test_nothing_is_written_to_one_that_is_not_open(self) -> None:
        self.assertRaises(ValueError, self.new().write, b"x")
        self.assertRaises(ValueError, self.new().commit)
