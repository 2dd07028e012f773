"""Follows the key-encryption keys (KEKs) of the KMS plugins, which are rotated in the KMS without any change of a file.

1. Ask the plugin of each KMS v2 provider that writes for its key id, every half minute.
2. A new key id is put on record, and takes effect after the plugin has named it for a while
   (`worker/records/kek.py`): plugins on other nodes may not know it yet, and some plugins name a wrong one for a
   moment.
3. When it takes effect, the same file is a new generation: what is under the former KEK is stale.
4. While a plugin names another KEK than the one in force, or names none, `held` says why nothing may be written.

Whether the kube-apiservers write under it is judged later, before a campaign begins (`apiservers/convergence.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import structlog

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import RecordError, WorkerError
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.kek import Kek, KekFigures, observe
from kube_rewrap.worker.records.keks import Keks

_ASK_SECONDS = 30.0
_RETRY_SECONDS = 2.0
_log = structlog.get_logger()

Ask = Callable[[Generation], Awaitable[Mapping[str, str | WorkerError]]]
"""Returns what the plugin of each of `Generation.kms_writers` names: its key id's hash, or why there is none."""

Show = Callable[[Mapping[str, KekFigures], bool], None]
"""Shows the state of every provider that was asked, by its name, and whether the newest file is not in force yet."""


class KekWatch:
    """See the module's docstring. `keks` are fenced by the leader's token; a KEK must stand for `settle` seconds.

    Calls `show` each time after it asked.
    """

    def __init__(self, keks: Keks, audit: AuditLog, ask: Ask, settle: float, show: Show) -> None:
        self._keks = keks
        self._audit = audit
        self._ask = ask
        self._settle = settle
        self._show = show
        self._held: dict[str, str] = {}
        self._figures: Mapping[str, KekFigures] = {}

    @property
    def held(self) -> str:
        """Why no object may be written under a KMS provider now, "" = objects may be written."""
        return "; ".join(because for _, because in sorted(self._held.items()))

    async def generations(self, files: AsyncGenerator[Generation]) -> AsyncGenerator[Generation]:
        """Yield each generation of the file with its KEKs, and the same file again when another KEK takes effect.

        Waits for a plugin that has never named a key id. Raises FencedError when leadership is lost.
        """
        async with aclosing(files):
            present = await anext(files)
            following = asyncio.ensure_future(anext(files))
            try:
                last = in_force = ""
                while True:
                    aimed = await self._aimed(present)
                    in_force = aimed.file_hash if aimed is not None else in_force
                    self._show(self._figures, in_force != present.file_hash)
                    if aimed is not None and aimed.hash != last:
                        last = aimed.hash
                        yield aimed
                    await asyncio.wait({following}, timeout=self._pause(present, is_known=aimed is not None))
                    if following.done():
                        present = following.result()
                        following = asyncio.ensure_future(anext(files))
            finally:
                await cancel_all(following)

    async def _aimed(self, generation: Generation) -> Generation | None:
        """Return the generation with the KEKs in force; None while one is not known."""
        named = await self._ask(generation) if generation.kms_writers else {}
        targets: dict[str, str] = {}
        self._held = {name: because for name, because in self._held.items() if name in named}
        shown: dict[str, KekFigures] = {}
        for name, answer in named.items():
            figures = self._figures.get(name, KekFigures())
            try:
                if isinstance(answer, WorkerError):
                    stored = await self._keks.get(name)
                else:
                    stored = await self._keks.note(name, partial(self._seen, name, answer))
            except RecordError as error:
                self._hold(name, f"{error}; delete it, and the KEK that the plugin names then is in force")
                shown[name] = replace(figures, is_held=True)
                continue
            if isinstance(answer, WorkerError):
                self._hold(name, f"the plugin of the KMS provider {name!r} gives no key id: {answer}")
            else:
                figures = replace(figures, named_at=time.time())
                because = stored.value.why_held(self._settle) if stored is not None else ""
                self._hold(name, because, is_normal=stored is not None and not stored.value.is_return)
            if stored is not None:
                targets[name] = stored.value.target
                figures = replace(figures, since=stored.value.since)
            shown[name] = replace(figures, is_held=name in self._held)
        self._figures = shown
        return generation.aimed(targets) if len(targets) == len(named) else None

    async def _seen(self, name: str, key_id_hash: str, before: Kek | None) -> Kek:
        after = observe(before, name, key_id_hash, time.time(), self._settle)
        if before is not None and after.target != before.target:
            because = f"its plugin has named another KEK for {self._settle:g} s"
            await self._audit.append("kek.changed", "", provider=name, because=because)
            _log.info("kek.changed", provider=name, because=because)
        return after

    def _pause(self, generation: Generation, *, is_known: bool) -> float | None:
        """Return the seconds until the plugins are asked again, None = there are none to ask.

        Not longer than a new KEK has to stand: else it would take effect much later than that.
        """
        if not generation.kms_writers:
            return None
        seconds = _RETRY_SECONDS if not is_known else min(_ASK_SECONDS, max(_RETRY_SECONDS, self._settle))
        return seconds * random.uniform(0.8, 1.0)  # noqa: S311 - jitter

    def _hold(self, name: str, because: str, *, is_normal: bool = False) -> None:
        """Keep why a provider is held, and log each reason once; a new KEK that has to stand first is normal."""
        before = self._held.pop(name, "")
        if because:
            self._held[name] = because
            if because != before:
                (_log.info if is_normal else _log.warning)("kek.held", provider=name, because=because)
        elif before:
            _log.info("kek.in_force", provider=name, because="its plugin names the KEK that is in force")
