"""
Drop-ins are imported by every C{twistd} of the machine, whatever it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]

#: What takes long to import, or decides something for everybody.
HEAVY = (
    "Crypto",
    "OpenSSL",
    "asyncio",
    "click",
    "cryptography",
    "klein",
    "meshkit.cli",
    "meshkit.runtime",
    "meshkit.services",
    "meshkit.tap",
    "meshkit.web",
    "nacl",
    "prometheus_client",
    "rich",
    "sqlite3",
    "treq",
    "twisted.internet.reactor",
    "zfec",
)

PROGRAM = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
# twisted.application.service is what every twistd has imported already.
import twisted.application.service, twisted.plugin, twisted.plugins
before = set(sys.modules)
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def drop_ins() -> list[str]:
    """Dotted names of the drop-ins of this tree."""
    return [
        f"{folder.replace('/', '.')}.{path.stem}"
        for folder in ("twisted/plugins", "meshkit_plugins")
        for path in sorted((ROOT / folder).glob("*.py"))
        if path.stem != "__init__"
    ]


class DropInTests(SynchronousTestCase):
    """What importing them costs."""

    def test_importing_the_drop_ins_imports_nothing_heavy(self) -> None:
        # twisted.plugins looks for drop-ins along sys.path, so ours are found without
        # being installed.
        with tempfile.TemporaryDirectory() as elsewhere:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(ROOT), *drop_ins()],
                capture_output=True,
                text=True,
                cwd=elsewhere,
            )
        self.assertEqual(done.stderr, "")
        imported = json.loads(done.stdout)
        self.assertIn("twisted.plugins.meshkit_node", imported)
        heavy = [
            name
            for name in imported
            if any(name == each or name.startswith(f"{each}.") for each in HEAVY)
        ]
        self.assertEqual(heavy, [])
