"""The example of objects without a node."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.workers import InlineWorkers
from tests.examples.support import load
from tests.runtime.support import scratch
from tests.storage.client.peers import run_until
from tests.storage.shelves import text_of


class StoreTests(SynchronousTestCase):
    def test_a_file_comes_back_from_six_of_nine_folders(self) -> None:
        example: Any = load("store_files.py")
        self.patch(example, "WorkerPool", InlineWorkers)
        clock, folder, said = Clock(), scratch(self), io.StringIO()
        path = Path(folder, "notes")
        path.write_bytes(text_of(100_000))
        with redirect_stdout(said):
            storing = example.store_and_fetch(clock, str(path), f"{folder}/shelf")
            run_until(clock, Deferred.fromCoroutine(storing))
        self.assertEqual(Path(folder, "notes.back").read_bytes(), path.read_bytes())
        first, *rest = said.getvalue().splitlines()
        self.assertIn("kept in 9 folders: mkread1-", first)
        self.assertIn("read from shares", rest[0])
        self.assertEqual(len(list(Path(folder, "shelf").iterdir())), 6)
