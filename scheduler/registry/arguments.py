"""Checks what arguments name, before a command asks KMS plugins: one that hangs takes some 10 seconds.

`require_spec`, `require_object` and `require_budget` check nothing where the configuration has no KMS provider: then
the command's own checks come soon enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.registry.examination import no_object, resource_of
from kube_rewrap.scheduler.registry.scan import survey_registry
from kube_rewrap.scheduler.registry.scope import CampaignSpec, choose
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger


async def require_spec(settings: Settings, generation: Generation, spec: CampaignSpec) -> None:
    """Raise SettingsError for resources and namespaces that a plan refuses, as `choose` and `require_objects` do."""
    if not generation.kms_providers:
        return
    async with _open_registry(settings) as (store, layout):
        territory = await survey_registry(store, generation.configuration, layout)
        choose(territory, spec)
        if not spec.options.allow_empty:
            await require_objects(store, territory, spec)


async def require_object(settings: Settings, generation: Generation, key: bytes) -> None:
    """Raise SettingsError for a key that the configuration does not govern, or that does not exist."""
    if not generation.kms_providers:
        return
    async with _open_registry(settings) as (store, layout):
        resource_of(key, layout, await survey_registry(store, generation.configuration, layout))
        if await store.get(key) is None:
            raise no_object(key, "does not exist")


async def require_budget(settings: Settings, generation: Generation, fingerprint: str) -> None:
    """Raise SettingsError for a fingerprint that is neither of a configured key nor of a budget on record."""
    configured = (key.fingerprint for _, chain in describe(generation).resources for key in chain)
    if not generation.kms_providers or fingerprint in configured:
        return
    async with _open_registry(settings) as (store, _):
        ledger = Ledger(store, Keyspace(settings.keyspace.state_prefix), settings.budget)
        if fingerprint not in await ledger.all():
            raise no_budget()


def no_budget() -> SettingsError:
    """Return the error for a fingerprint without a budget."""
    fault = Fault("--accept", "no budget is on record for this fingerprint", "see `rewrap keys`")
    return SettingsError("command line", (fault,))


async def require_objects(store: Store, territory: Territory, spec: CampaignSpec) -> None:
    """Raise SettingsError if a named resource or namespace holds no object: it was most likely mistyped."""
    by_resource = {name: replace(spec, resources=(name,)) for name in spec.resources}
    by_namespace = {name: replace(spec, namespaces=(name,)) for name in spec.namespaces}
    for option, parts in (("--resource", by_resource), ("--namespace", by_namespace)):
        empty = [name for name, part in parts.items() if not await _has_objects(store, territory, part)]
        if empty:
            message = f"{', '.join(empty)}: no object is there, so a scan would prove nothing about it"
            remedy = "if no object is expected, give --allow-empty (allow_empty in a request)"
            raise SettingsError("command line", (Fault(option, message, remedy),))


async def _has_objects(store: Store, territory: Territory, spec: CampaignSpec) -> bool:
    for one in choose(territory, spec):
        if (await store.keys(one.range, 1))[0]:
            return True
    return False


@asynccontextmanager
async def _open_registry(settings: Settings) -> AsyncIterator[tuple[Store, Layout]]:
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        yield store, layout
