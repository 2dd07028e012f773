"""Sets Python's cyclic garbage collector for a process that works on objects.

An object's way through a batch makes no reference cycles, so the collector finds next to nothing; yet by default each
page of objects starts it several times, and now and then it walks everything that the imports have made.
"""

from __future__ import annotations

import gc

_YOUNG = 5_000
"""Objects that hold references: so many more than at the last collection start another one. CPython's default is 700.

More would leave more memory in cycles after failed calls, whose requests may be 1 MiB each.
"""


def spare_the_imports() -> None:
    """Exempt what exists now, mostly modules, from collection for good, and collect less often. Only the first call."""
    if gc.get_freeze_count() == 0:
        gc.freeze()
        _, middle, old = gc.get_threshold()
        gc.set_threshold(_YOUNG, middle, old)
