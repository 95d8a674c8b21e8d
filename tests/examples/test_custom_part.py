"""The tests that the example of a custom part brings along, as a part of ours."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.support import CUSTOM_PART, load

for _file in ("test_roundtrip", "test_simulation"):
    _theirs = load(f"custom_part/tests/{_file}.py", with_path=CUSTOM_PART)
    for _name, _case in vars(_theirs).items():
        if getattr(_case, "__module__", None) == _theirs.__name__ and hasattr(_case, "run"):
            # Runners find and name tests by their module.
            _case.__module__ = __name__
            globals()[_name] = _case
# Else trial would find the last of them once more, by this name.
del _name, _case


class FoundTests(SynchronousTestCase):
    def test_they_are_found(self) -> None:
        for name in ("ProtocolTests", "AnswererTests", "NodeTests", "SeedTests", "PlanTests"):
            self.assertTrue(issubclass(globals()[name], SynchronousTestCase))
