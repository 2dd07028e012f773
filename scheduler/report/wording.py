"""Bounds and escapes every text of a report. Pure.

Names of keys, resources and replicas, and sentences of records, come from a file or from etcd. Each is cut to a
length, and each character that does not print is escaped. Unless names are asked for, etcd keys inside sentences are
replaced, since they name objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 600
"""Characters of one text."""

_HIDDEN = "(an object)"


@dataclass(frozen=True, slots=True)
class Wording:
    """Writes texts into a report. `root` is kube-apiserver's prefix in etcd; `names`: etcd keys may be shown."""

    root: str
    names: bool

    def text(self, text: str, most: int = LONGEST) -> str:
        """Return a text that is safe to show: without etcd keys unless `names`, printable, at most `most` long."""
        if not self.names:
            text = re.sub(rf"{re.escape(self.root.rstrip('/'))}/\S+", _HIDDEN, text)
        # Cut first, so that escaping never works on more than is shown; then again, for it makes the text longer.
        shown = "".join(map(_printable, text[: most + 1]))
        return shown if len(shown) <= most else shown[: most - 1] + "…"


def _printable(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
