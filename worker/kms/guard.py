"""One plugin, called within limits: at most `AT_ONCE` calls side by side, a rate ceiling, a circuit for each method.

The circuit of a method counts its failures in a row, so that a plugin that may decrypt and not encrypt, or the reverse,
is still used for what it can do. An undecided failure, or a refusal, counts only where the argument was this process'
own: a value from etcd may be damaged, or forged so that the plugin refuses it. Forged keys on which the plugin breaks
must not keep the circuit open either: failures with keys from etcd do not count for `PROVEN_SECONDS` after a success
with an argument of our own, and while they alone opened the circuit, it lets such arguments through.

Calls with an argument of our own, but for a canary's, are tried `TRIES` times while their circuit is closed, so each
ends within `TRIES` times the plugin's timeout, the pauses, and the waits for a place and a token.

Not handled: the deadline of one call, which is the client's; keys from etcd and what their failures mean
(`keyring.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.circuit import Circuit
from kube_rewrap.worker.kms.client import Status
from kube_rewrap.worker.kms.counts import CallOutcome, Calls, Method, PluginCounts
from kube_rewrap.worker.kms.pace import CallPace
from kube_rewrap.worker.wrapped import Plugin, WrappedKey

T = TypeVar("T")

AT_ONCE = 8
"""Calls side by side. Plugins answer one after another, or pass all on to a KMS that throttles."""

TRIES = 3
PROVEN_SECONDS = 10.0
"""As long as a circuit is open at first. A canary is asked for before the last try of each key that fails."""
_PAUSE_SECONDS = 1.0
"""Between two tries, give or take a half: quotas of KMSs are by the second."""

_log = structlog.get_logger()


class Client(Protocol):
    """What is used of `KmsClient`. Each call ends within the plugin's timeout.

    Each raises KmsUnavailableError, KmsRefusedError or KmsUndecidedError; the messages are ours.
    """

    async def status(self) -> Status:
        """Return the answer of a healthy plugin; v2 only."""

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        """Have a secret wrapped."""

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        """Have a wrapped key unwrapped."""

    async def close(self) -> None:
        """Close the connection."""


class NotAskedError(KmsUnavailableError):
    """No call was made: the circuit of the method is open."""


class _Line:
    """The circuit of one method, and the failures in a row that it counts."""

    def __init__(self) -> None:
        self.circuit = Circuit()
        self.failure: KmsUnavailableError | KmsRefusedError | None = None
        self.is_proven = False
        """Whether a call with an argument of our own opened the circuit, or failed while it was open."""
        self.worked_at = -PROVEN_SECONDS
        """When a call with an argument of our own last succeeded."""
        self.last = CallOutcome.OK
        """Of the last call with an argument of our own."""
        self.probe = asyncio.Lock()


class GuardedPlugin:
    """See the module's docstring. For one event loop."""

    def __init__(self, plugin: Plugin, client: Client, pace: CallPace) -> None:
        self.plugin = plugin
        self.sources = 0
        self.seeds = 0
        self.refused = 0
        self._client = client
        self._pace = pace
        self._places = asyncio.Semaphore(AT_ONCE)
        self._lines = {method: _Line() for method in Method}
        self._calls: defaultdict[tuple[Method, CallOutcome], Calls] = defaultdict(Calls)
        self._status_at: float | None = None

    def __str__(self) -> str:
        return f"KMS {self.plugin.version} provider {self.plugin.name!a}"

    async def status(self) -> Status:
        """Return a healthy plugin's answer. Raises KmsUnavailableError, KmsRefusedError."""
        answer = await self._try(Method.STATUS, self._client.status)
        self._status_at = _now()
        return answer

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        """Have a secret of this process wrapped. Raises KmsUnavailableError, KmsRefusedError."""
        return await self._try(Method.ENCRYPT, lambda: self._client.encrypt(secret))

    async def encrypt_once(self, secret: SecretBytes) -> WrappedKey:
        """As `encrypt`, by one call."""
        return await self._call(Method.ENCRYPT, lambda: self._client.encrypt(secret), is_ours=True)

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        """Have a wrapped key from etcd unwrapped, by one call.

        Raises KmsUnavailableError; KmsUndecidedError where the wrapped key may be to blame, which is so for a refusal,
        too: a plugin may refuse a key id that it does not have, or a key of another account. Makes no call while the
        circuit is open: raises NotAskedError, or KmsRefusedError.
        """
        return await self._call(Method.DECRYPT, lambda: self._client.decrypt(wrapped), is_ours=False)

    async def decrypt_known(self, wrapped: WrappedKey) -> SecretBytes:
        """Have a key unwrapped that this plugin wrapped, or unwrapped before, for this process.

        The key is not to blame for a failure. Raises KmsUnavailableError, KmsRefusedError.
        """
        return await self._try(Method.DECRYPT, lambda: self._client.decrypt(wrapped))

    async def decrypt_known_once(self, wrapped: WrappedKey) -> SecretBytes:
        """As `decrypt_known`, by one call."""
        return await self._call(Method.DECRYPT, lambda: self._client.decrypt(wrapped), is_ours=True)

    def is_open(self, method: Method) -> bool:
        """Whether the method is not to be called now, with a key from etcd at least."""
        return self._lines[method].circuit.wait(_now()) > 0

    @property
    def may_not_encrypt(self) -> bool:
        """Whether Encrypt never succeeded in this process, and its last failure was not a passing one.

        So a plugin without the permission to encrypt looks, whose error may be UNKNOWN.
        """
        has_encrypted = (Method.ENCRYPT, CallOutcome.OK) in self._calls
        return not has_encrypted and self._lines[Method.ENCRYPT].last in {CallOutcome.REFUSED, CallOutcome.UNDECIDED}

    def counts(self) -> PluginCounts:
        """Return what was counted so far."""
        now = _now()
        return PluginCounts(
            self.plugin,
            dict(self._calls),
            {method: line.circuit.state(now) for method, line in self._lines.items()},
            None if self._status_at is None else now - self._status_at,
            self.sources,
            self.seeds,
            self.refused,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _try(self, method: Method, ask: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES - 1):
            try:
                return await self._call(method, ask, is_ours=True)
            except KmsUnavailableError:
                if self.is_open(method):
                    raise
            await pause()
        return await self._call(method, ask, is_ours=True)

    async def _call(self, method: Method, ask: Callable[[], Awaitable[T]], *, is_ours: bool) -> T:
        """Call when there is a place, a token and no open circuit; fail at once while the circuit is open."""
        line = self._lines[method]
        async with self._places:
            self._require_not_open(method, is_ours=is_ours)
            # Inside the place: a process that is killed or cancelled loses a few tokens of the shared bucket, not many.
            await self._pace.take(1)
            self._require_not_open(method, is_ours=is_ours)
            if line.circuit.state(_now()) == "closed":
                return await self._judged(method, ask, is_ours=is_ours)
            async with line.probe:
                self._require_not_open(method, is_ours=is_ours)
                return await self._judged(method, ask, is_ours=is_ours)

    async def _judged(self, method: Method, ask: Callable[[], Awaitable[T]], *, is_ours: bool) -> T:
        began, outcome = _now(), CallOutcome.CANCELLED
        try:
            answer = await ask()
        except KmsUnavailableError as error:
            outcome = CallOutcome.UNAVAILABLE
            if is_ours or _now() - self._lines[method].worked_at > PROVEN_SECONDS:
                self._failed(method, error, is_ours=is_ours)
            raise
        except KmsRefusedError as error:
            outcome = CallOutcome.REFUSED
            if not is_ours:
                undecided = KmsUndecidedError(str(error))
                undecided.plugin_text = error.plugin_text
                raise undecided from None
            self._failed(method, error, is_ours=is_ours)
            raise
        except KmsUndecidedError as error:
            outcome = CallOutcome.UNDECIDED
            if not is_ours:
                raise
            failure = KmsUnavailableError(str(error), delay=1.0)
            self._failed(method, failure, is_ours=is_ours)
            raise failure from None
        else:
            outcome = CallOutcome.OK
            self._succeeded(method)
            return answer
        finally:
            if is_ours and outcome is not CallOutcome.CANCELLED:
                self._lines[method].last = outcome
            if is_ours and outcome is CallOutcome.OK:
                self._lines[method].worked_at = _now()
            counted = self._calls[method, outcome]
            self._calls[method, outcome] = counted.counted(_now() - began)

    def _require_not_open(self, method: Method, *, is_ours: bool) -> None:
        line = self._lines[method]
        wait = line.circuit.wait(_now())
        if wait <= 0 or (is_ours and not line.is_proven):
            return
        # Without numbers: a sentence that stays the same is logged and recorded once.
        message = f"{self} is not asked to {method} for a while, after failures in a row; the last one: {line.failure}"
        if isinstance(line.failure, KmsRefusedError):
            raise KmsRefusedError(message)
        raise NotAskedError(message, delay=wait)

    def _failed(self, method: Method, failure: KmsUnavailableError | KmsRefusedError, *, is_ours: bool) -> None:
        line, now = self._lines[method], _now()
        before = line.circuit
        line.circuit = before.failed(now, random.uniform(1.0, 1.1))  # noqa: S311 - jitter
        line.failure = failure
        has_opened = line.circuit.openings != before.openings
        line.is_proven = is_ours or (line.is_proven and not has_opened)
        if has_opened:
            wait = round(line.circuit.wait(now))
            _log.warning("kms.circuit_opened", **self._log_context(method), seconds=wait, because=str(failure))

    def _succeeded(self, method: Method) -> None:
        line = self._lines[method]
        if line.circuit.openings:
            because = f"a call succeeded after {line.circuit.failures} failures"
            _log.info("kms.circuit_closed", **self._log_context(method), because=because)
        line.circuit, line.failure = Circuit(), None

    def _log_context(self, method: Method) -> dict[str, str]:
        return {"provider": self.plugin.name, "version": self.plugin.version, "method": method.value}


async def pause() -> None:
    """Wait between two tries."""
    await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


def _now() -> float:
    return asyncio.get_running_loop().time()
