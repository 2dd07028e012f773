"""The leader's requests: makes the service's own, picks the next one, and records the outcome of each.

Requests are records: the next leader finds them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from kube_rewrap.scheduler.upkeep.repairs import MOST_PLACES, Drift, Repair
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.campaign import CampaignOptions
from kube_rewrap.worker.records.request import Origin, Request, RequestKind, RequestState
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.table import Stored

_RETRY_SECONDS = 5.0
_LONGEST_RETRY = 600.0
_LONGEST_REASON = 500
_DRIFT_PRIORITY = 50
_DAY = 86_400.0
_CHANGE_PRIORITY = 60  # above a repair: a campaign over everything repairs drift, too
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Later:
    """When a postponed request is tried again (loop time), and after how many seconds.

    `unconverged`: it waits only until the kube-apiservers are known to run the configuration.
    """

    at: float
    pause: float
    unconverged: bool = False


class RequestBacklog:
    """See the module's docstring. `requests` are fenced by the leader's token."""

    def __init__(self, requests: Requests, audit: AuditLog) -> None:
        self._requests = requests
        self._audit = audit
        self._later: dict[str, _Later] = {}
        self._repairs: list[Repair] | None = None

    async def next(self) -> Stored[Request] | None:
        """Return the request to try now: of the highest priority, the oldest first; None if there is none."""
        now = asyncio.get_running_loop().time()
        waiting = [
            one for one in await self._waiting() if (later := self._later.get(one.value.id)) is None or later.at <= now
        ]
        return max(waiting, key=lambda one: one.value.options.priority, default=None)

    async def waiting_for_us(self) -> Request | None:
        """Return the first waiting request that no operator made, leaving out repairs that can't be met now.

        The caller must not wait for such a repair: its own scan finds what drifted. `because` is "" where it may be
        outdated.
        """
        waiting = (one.value for one in await self._waiting())
        ours = (one for one in waiting if one.origin is not Origin.OPERATOR)
        first = next((one for one in ours if not (one.origin is Origin.DRIFT and one.because)), None)
        return first if first is None or first.id in self._later else replace(first, because="")

    async def ask_for_change(self, revision: int, reason: str) -> None:
        """Request the campaign for a new configuration; cancel the service's own older requests that still wait.

        `revision` is that of the generation record that it replaces, so that a repeat after a crash makes the same
        request.
        """
        for stored in await self._waiting():
            if stored.value.origin is not Origin.OPERATOR:
                because = "the configuration changed before it could be met, which looks at everything"
                await self._requests.save(stored.holding(stored.value.decided(RequestState.CANCELLED, because)))
        await self._ask(Origin.CHANGE, f"change-{revision}", CampaignOptions(reason=reason, priority=_CHANGE_PRIORITY))

    async def ask_for_full_check(self, reason: str) -> None:
        """Request a campaign for the stale objects that a full check found."""
        await self._ask(Origin.FULL_CHECK, f"full-check-{_stamp()}", CampaignOptions(reason=reason))

    async def ask_for_rotation(self, reason: str, name: str = "") -> None:
        """Request a campaign for a rotation, once per `name`; without a name, each time."""
        await self._ask(Origin.ROTATION, name or f"rotation-{_stamp()}", CampaignOptions(reason=reason))

    async def ask_for_repairs(self, drift: Drift) -> None:
        """Request the repairs that are due, without those that a waiting request covers."""
        now = time.time()
        if self._repairs is None:
            self._repairs = [_repair(one.value) for one in await self._requests.all() if _is_repair(one.value)]
        self._repairs = [one for one in self._repairs if now - one.at < _DAY]
        due = drift.due(self._repairs, now)
        if not due:
            return
        waiting = [one.value for one in await self._waiting() if one.value.origin is not Origin.OPERATOR]
        if any(one.origin is not Origin.DRIFT for one in waiting):
            return  # a campaign over everything finds the drift
        for repair in due:
            alike = [one.namespaces for one in waiting if one.resources == (repair.resource,)]
            left = tuple(sorted(set(repair.namespaces).difference(*alike)))
            if () in alike or (repair.namespaces and not left):
                continue
            await self._ask_for_repair(replace(repair, namespaces=left if len(alike) < MOST_PLACES else ()))

    async def _ask_for_repair(self, repair: Repair) -> None:
        where = f"{repair.resource} in {', '.join(repair.namespaces)}" if repair.namespaces else repair.resource
        reason = f"drift: {where} was written under another key"
        # The drifted objects may be deleted by then.
        options = CampaignOptions(reason=reason, priority=_DRIFT_PRIORITY, allow_empty=True, repair=True)
        await self._ask(Origin.DRIFT, f"drift-{_stamp()}", options, (repair.resource,), repair.namespaces)
        self._repairs = [*(self._repairs or ()), repair]

    async def _ask(
        self,
        origin: Origin,
        name: str,
        options: CampaignOptions,
        resources: tuple[str, ...] = (),
        namespaces: tuple[str, ...] = (),
    ) -> None:
        options = replace(options, reason=options.reason[:_LONGEST_REASON])
        now = datetime.now(UTC).isoformat()
        if await self._requests.submit(
            Request(
                id=name,
                kind=RequestKind.START,
                asked_at=now,
                origin=origin,
                resources=resources,
                namespaces=namespaces,
                options=options,
            )
        ):
            _log.info("request.made", request=name, origin=origin.value, because=options.reason)

    async def put_off(self, stored: Stored[Request], because: str) -> None:
        """Refuse an operator's request; postpone one of the service's own, with growing delay."""
        request = stored.value
        if request.origin is Origin.OPERATOR:
            await self.decide(stored, RequestState.REFUSED, because)
            return
        before = self._later.get(request.id)
        pause = min(_LONGEST_RETRY, 2 * before.pause) if before else _RETRY_SECONDS
        self._later[request.id] = _Later(asyncio.get_running_loop().time() + pause, pause)
        await self._note(stored, because)

    async def put_off_until_converged(self, stored: Stored[Request], because: str) -> None:
        """As `put_off`, but the service's own is tried again soon, and at once after `converged`."""
        request = stored.value
        if request.origin is Origin.OPERATOR:
            await self.decide(stored, RequestState.REFUSED, because)
            return
        at = asyncio.get_running_loop().time() + _RETRY_SECONDS
        self._later[request.id] = _Later(at, _RETRY_SECONDS, unconverged=True)
        # Kube-apiservers load a new file in a minute or so; `convergence.timed_out` warns when they do not.
        await self._note(stored, because, is_normal=True)

    def converged(self) -> None:
        """Make requests due that waited only for all kube-apiservers to run the configuration."""
        self._later = {name: later for name, later in self._later.items() if not later.unconverged}

    async def _note(self, stored: Stored[Request], because: str, *, is_normal: bool = False) -> None:
        """Log and record why a request waits, once for each reason."""
        request = stored.value
        if request.because != because:
            (_log.info if is_normal else _log.error)("request.put_off", request=request.id, because=because)
            await self._requests.save(stored.holding(request.decided(RequestState.WAITING, because)))
            await self._enter("request.put_off", request, because)

    async def decide(self, stored: Stored[Request], state: RequestState, because: str, campaign: str = "") -> None:
        """Record, log and audit the outcome of a request."""
        decided = stored.value.decided(state, because, campaign)
        await self._requests.save(stored.holding(decided))
        self._later.pop(decided.id, None)
        _log.info(f"request.{state.value}", request=decided.id, campaign=decided.campaign, because=because)
        await self._enter(f"request.{state.value}", decided, because)

    async def _enter(self, event: str, request: Request, because: str) -> None:
        """Add an entry to the audit log, except for repairs: it has a sum of those."""
        if request.origin is not Origin.DRIFT:
            await self._audit.append(event, request.campaign, request=request.id, because=because)

    async def forget_old(self) -> None:
        """Delete requests that were decided long ago."""
        await self._requests.forget_old()

    async def _waiting(self) -> list[Stored[Request]]:
        return [one for one in await self._requests.all() if one.value.state is RequestState.WAITING]


def _stamp() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"


def _is_repair(request: Request) -> bool:
    return request.origin is Origin.DRIFT and len(request.resources) == 1


def _repair(request: Request) -> Repair:
    """Return a recorded request as a repair; a malformed time counts as 1970."""
    try:
        at = datetime.fromisoformat(request.asked_at).timestamp()
    except ValueError:
        at = 0.0
    return Repair(at, request.resources[0], request.namespaces)
