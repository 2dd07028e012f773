"""The requests that the leader deals with: what it asks for itself, which one is next, and what became of each.

Requests are records: whoever leads next finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from worker.model.campaign import Wish
from worker.model.request import Origin, Request, RequestKind, RequestState
from worker.state.audit import AuditLog
from worker.state.requests import Requests, StoredRequest

_RETRY_SECONDS = 5.0
_LONGEST_RETRY = 600.0
_LONGEST_REASON = 500
_DRIFT_PRIORITY = 50
_MOST_PLACES = 10
_CHANGE_PRIORITY = 60  # above a repair: what changes everything mends what drifted, too
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Later:
    """When a request that could not be met is tried again (loop time), and the pause after that.

    `unconverged`: all that it waits for is that the kube-apiservers are known to run the configuration.
    """

    at: float
    pause: float
    unconverged: bool = False


class Inbox:
    """See the module's docstring. `requests` are fenced by the leader's token."""

    def __init__(self, requests: Requests, audit: AuditLog) -> None:
        self._requests = requests
        self._audit = audit
        self._later: dict[str, _Later] = {}

    async def next(self) -> StoredRequest | None:
        """Return the request that is next: of the highest priority, the oldest first."""
        now = asyncio.get_running_loop().time()
        waiting = [
            one
            for one in await self._waiting()
            if (later := self._later.get(one.request.id)) is None or later.at <= now
        ]
        return max(waiting, key=lambda one: one.request.wish.priority, default=None)

    async def waiting_for_us(self) -> Request | None:
        """Return a request that waits and that no operator made; without a reason that may be over by now."""
        ours = (one.request for one in await self._waiting() if one.request.origin is not Origin.OPERATOR)
        first = next(ours, None)
        return first if first is None or first.id in self._later else replace(first, because="")

    async def ask_for_change(self, revision: int, reason: str) -> None:
        """Ask for what a new configuration takes; what the service asked for before it and still waits is given up.

        `revision` is that of the record that it replaces: asked again after a crash, it is one request.
        """
        for stored in await self._waiting():
            if stored.request.origin is not Origin.OPERATOR:
                because = "the configuration changed before it could be met, which looks at everything"
                await self._requests.decide(stored, stored.request.decided(RequestState.CANCELLED, because))
        await self._ask(Origin.CHANGE, f"change-{revision}", Wish(reason, priority=_CHANGE_PRIORITY))

    async def ask_for_resync(self, reason: str) -> None:
        """Ask for what a full check found."""
        await self._ask(Origin.RESYNC, f"resync-{_stamp()}", Wish(reason))

    async def ask_for_rotation(self, name: str) -> None:
        """Ask, once for each name, for what a rotation's scan found under other keys."""
        await self._ask(Origin.RESYNC, name, Wish("a rotation's scan found objects under another key"))

    async def ask_for_repairs(self, places: Iterable[tuple[str, str]]) -> None:
        """Ask for the repair of resources and namespaces ("" = cluster scope) where something drifted."""
        waiting = [one.request for one in await self._waiting() if one.request.origin is not Origin.OPERATOR]
        if any(one.origin is not Origin.DRIFT for one in waiting):
            return  # what looks at everything finds it
        known = {(one.resources[0], "".join(one.namespaces)) for one in waiting}
        drifted: dict[str, set[str]] = {}
        for resource, namespace in set(places) - known:
            if (resource, "") not in known:
                drifted.setdefault(resource, set()).add(namespace)
        for resource, found in sorted(drifted.items()):
            # Of many places, one campaign over the resource is sooner done.
            for namespace in sorted(found) if len(found) <= _MOST_PLACES else [""]:
                where = f"{resource} in {namespace}" if namespace else resource
                wish = Wish(f"drift: {where} was written under another key", priority=_DRIFT_PRIORITY)
                namespaces = (namespace,) if namespace else ()
                await self._ask(Origin.DRIFT, f"drift-{_stamp()}", wish, (resource,), namespaces)

    async def _ask(
        self,
        origin: Origin,
        name: str,
        wish: Wish,
        resources: tuple[str, ...] = (),
        namespaces: tuple[str, ...] = (),
    ) -> None:
        wish = replace(wish, reason=wish.reason[:_LONGEST_REASON])
        now = datetime.now(UTC).isoformat()
        if await self._requests.submit(Request(name, RequestKind.START, now, origin, resources, namespaces, wish)):
            _log.info("request.made", request=name, origin=origin.value, because=wish.reason)

    async def put_off(self, stored: StoredRequest, because: str) -> None:
        """Refuse an operator's request; let one of our own wait, longer and longer."""
        request = stored.request
        if request.origin is Origin.OPERATOR:
            await self.decide(stored, RequestState.REFUSED, because)
            return
        before = self._later.get(request.id)
        pause = min(_LONGEST_RETRY, 2 * before.pause) if before else _RETRY_SECONDS
        self._later[request.id] = _Later(asyncio.get_running_loop().time() + pause, pause)
        await self._note(stored, because)

    async def put_off_until_converged(self, stored: StoredRequest, because: str) -> None:
        """As `put_off`, but one of our own is tried again soon, and at once when `converged` is told."""
        request = stored.request
        if request.origin is Origin.OPERATOR:
            await self.decide(stored, RequestState.REFUSED, because)
            return
        at = asyncio.get_running_loop().time() + _RETRY_SECONDS
        self._later[request.id] = _Later(at, _RETRY_SECONDS, unconverged=True)
        await self._note(stored, because)

    def converged(self) -> None:
        """Let what waits only for convergence be next: somebody saw that all kube-apiservers run the configuration."""
        self._later = {name: later for name, later in self._later.items() if not later.unconverged}

    async def _note(self, stored: StoredRequest, because: str) -> None:
        """Say once for each reason why a request waits, and put it on record."""
        request = stored.request
        if request.because != because:
            _log.error("request.put_off", request=request.id, because=because)
            await self._requests.decide(stored, request.decided(RequestState.WAITING, because))
            await self._audit.append("request.put_off", "", request=request.id, because=because)

    async def decide(self, stored: StoredRequest, state: RequestState, because: str, campaign: str = "") -> None:
        """Record what became of a request."""
        decided = stored.request.decided(state, because, campaign)
        await self._requests.decide(stored, decided)
        self._later.pop(decided.id, None)
        _log.info(f"request.{state.value}", request=decided.id, campaign=decided.campaign, because=because)
        await self._audit.append(f"request.{state.value}", decided.campaign, request=decided.id, because=because)

    async def forget_old(self) -> None:
        """Forget requests that were decided on long ago."""
        await self._requests.forget_old()

    async def _waiting(self) -> list[StoredRequest]:
        return [one for one in await self._requests.all() if one.request.state is RequestState.WAITING]


def _stamp() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
