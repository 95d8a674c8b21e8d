"""docs/protocol/storage.md, beside what is done."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.signed.signatures import REQUEST_COMPONENTS, RESPONSE_COMPONENTS
from meshkit.storage.http.resource import StorageResource

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol" / "storage.md"
ROW: Final = re.compile(r"^\| `(\w+)\.(\w+)` \| ([0-9,]+) \|", re.MULTILINE)
ROUTE: Final = re.compile(r"^\| `(GET|POST|PUT|DELETE) (/v1/\S+)` \|", re.MULTILINE)
#: Where the names of the table are at home.
PLACES: Final = {
    "http": "meshkit.runtime.http",
    "replays": "meshkit.runtime.signed.replays",
    "terms": "meshkit.storage.terms",
    "statements": "meshkit.storage.statements",
}


class Page(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = PAGE.read_text(encoding="utf-8")

    def test_every_limit_is_the_one_of_the_code(self) -> None:
        rows = ROW.findall(self.text)
        self.assertGreater(len(rows), 15)
        for module, name, value in rows:
            place = PLACES.get(module, f"meshkit.storage.http.{module}")
            found = getattr(import_module(place), name)
            self.assertEqual(found, int(value.replace(",", "")), name)

    def test_every_limit_of_the_code_is_there(self) -> None:
        named = {(module, name) for module, name, _ in ROW.findall(self.text)}
        for module in ("server", "client", "messages", "replays"):
            place = PLACES.get(module, f"meshkit.storage.http.{module}")
            constants = vars(import_module(place))
            source = Path(str(constants["__file__"])).read_text(encoding="utf-8")
            own = re.findall(r"^([A-Z][A-Z_]+): Final = ", source, re.MULTILINE)
            limits = [name for name in own if name.startswith(("MAX_", "LINGER_"))]
            for name in limits:
                self.assertIn((module, name), named)

    def test_every_request_is_there(self) -> None:
        written = set(ROUTE.findall(self.text))
        fields = {"<hex:upload>": "UPLOAD", "<hex:share>": "SHARE"}
        fields |= {"<number:number>": "NUMBER", "<segment:segment>": "SEGMENT"}
        served = set()
        for rule in StorageResource.app.url_map.iter_rules():
            path = rule.rule
            for field, name in fields.items():
                path = path.replace(field, name)
            served |= {(method, path) for method in (rule.methods or set()) - {"HEAD"}}
        self.assertEqual(written, served)

    def test_what_is_signed_is_there(self) -> None:
        text = " ".join(self.text.split())
        self.assertIn(f"mk=({' '.join(REQUEST_COMPONENTS)});created=", text)
        self.assertIn(f"mk=({' '.join(RESPONSE_COMPONENTS)});created=", text)
