"""
The tests of meshkit: C{make test}, or C{python -m twisted.trial tests}.

The hypothesis profiles are registered here because both test runners import this.
"""

import os
from typing import Final

from hypothesis import settings

settings.register_profile("dev", max_examples=30, deadline=None)
# The same examples each time: a failure that appears is due to the change at hand.
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, database=None, print_blob=True
)
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)

#: Name of the profile that is loaded.
PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE") or "dev"

settings.load_profile(PROFILE)
