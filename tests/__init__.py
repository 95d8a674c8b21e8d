"""
The tests of meshkit: C{make test}, or C{python -m twisted.trial tests}.

The hypothesis profiles are registered here because both test runners import this.  With
C{SAME_EXAMPLES=1} that of C{make test} has the same examples each time, as in CI.
"""

import os
from typing import Any, Final

from hypothesis import settings

# The same examples each time: a failure that appears is due to the change at hand.
_SAME: Final[dict[str, Any]] = {"derandomize": True, "database": None, "print_blob": True}
_ALWAYS_SAME: Final = os.environ.get("SAME_EXAMPLES") == "1"

settings.register_profile("dev", max_examples=30, deadline=None, **(_SAME if _ALWAYS_SAME else {}))
settings.register_profile("ci", max_examples=200, deadline=None, **_SAME)
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)

#: Name of the profile that is loaded.
PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE") or "dev"

settings.load_profile(PROFILE)
