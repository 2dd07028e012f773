"""Compares `rewrap run` to a KMS v2 provider, and from one KEK to another, with aesgcm to aesgcm, in turns in one run.

The plugin is the one of the tests, as a process on this machine: its calls cost what a socket costs, and no network.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from statistics import median

from bench.ground import RESOURCES, Ground
from bench.rewriting import Speed, rewrap
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.provider import KmsProvider, Provider
from tests.service.kms import PluginProcess, plugin_process

OBJECTS = 10_000
TURNS = 3
_CLASSIC = "aesgcm → aesgcm"
_METHODS = ("status", "encrypt", "decrypt")


@dataclass(frozen=True, slots=True)
class Row:
    """One campaign: its batches alone, the whole run, and the calls to the plugin by method."""

    batches: Speed
    whole: Speed
    calls: Counter[str]


async def compare(ground: Ground) -> None:
    """Print the table."""
    # A ceiling of calls would measure itself, and a KEK that has to stand would only add seconds.
    ground = replace(ground, settings=replace(ground.settings, kms=replace(ground.settings.kms, v2_rate=0, settle=0)))
    last: Provider = make_key(ProviderType.AESGCM, "first")
    await seed(ground.settings.etcd, [Era(last, 1)], Shape(OBJECTS, resources=RESOURCES))
    with plugin_process(ground.directory / "kms") as plugin:
        cloud = KmsProvider("v2", "cloud", plugin.endpoint, 3.0, None)
        print(f"{'rewrap':<18} {'run/s':>8} {'ratio':>6} {'whole':>6} {'run µs':>8} {'CPU':>6}  " + "  ".join(_METHODS))
        ratios: dict[str, list[tuple[float, float]]] = {}
        for turn in range(TURNS):
            rows, last = await _turn(ground, plugin, cloud, last, turn)
            for name, row in rows.items():
                ratio = row.batches.rate / rows[_CLASSIC].batches.rate
                whole = row.whole.rate / rows[_CLASSIC].whole.rate
                cpu = rows[_CLASSIC].batches.cpu / row.batches.cpu
                ratios.setdefault(name, []).append((ratio, cpu))
                made = "  ".join(f"{row.calls[method]:{len(method)}}" for method in _METHODS)
                print(
                    f"{name:<18} {row.batches.rate:8,.0f} {ratio:6.2f} {whole:6.2f} "
                    f"{row.batches.cpu:8.0f} {cpu:6.2f}  {made}"
                )
    for name, found in ratios.items():
        rate, cpu = (median(values) for values in zip(*found, strict=True))
        print(f"median of {name}: ratio {rate:.2f}, of CPU {cpu:.2f}")


async def _turn(
    ground: Ground, plugin: PluginProcess, cloud: KmsProvider, last: Provider, turn: int
) -> tuple[dict[str, Row], Provider]:
    """Run one campaign of each kind; returns them, and the provider under which the objects are then."""
    new, plain = make_key(ProviderType.AESGCM, f"aesgcm-{turn}"), make_key(ProviderType.AESCBC, f"aescbc-{turn}")
    rows = {_CLASSIC: await _campaign(ground, new, last)}
    rows["aesgcm → aescbc"] = await _campaign(ground, plain, new)
    plugin.does(key_id=f"kek-{turn}-a")
    rows["aescbc → v2"] = await _campaign(ground, cloud, plain)
    plugin.does(key_id=f"kek-{turn}-b")
    rows["v2 → v2"] = await _campaign(ground, cloud)
    back = make_key(ProviderType.AESGCM, f"back-{turn}")
    rows["v2 → aesgcm"] = await _campaign(ground, back, cloud)
    return rows, back


async def _campaign(ground: Ground, *providers: Provider) -> Row:
    calls: Counter[str] = Counter()
    batches, whole = await rewrap(ground, *providers, objects=OBJECTS, calls=calls)
    return Row(batches, whole, calls)
