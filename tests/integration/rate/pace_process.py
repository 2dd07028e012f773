"""One of several processes under one ceiling, as a worker's child is: `python -m tests.integration.rate.pace_process`.

Arguments: Redis' URL, rate, share, objects a call, calls. On stdout one JSON list of grants, on Redis' clock.
"""

from __future__ import annotations

import asyncio
import json
import sys

import redis.asyncio

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.rate.shared import open_pace


async def go(url: str, rate: float, share: int, objects: int, calls: int) -> list[tuple[float, float, int]]:
    async def now() -> float:
        seconds, microseconds = await clock.time()
        return float(seconds + microseconds / 1_000_000)

    grants = []
    settings = BrokerSettings(url=SecretBytes(url.encode()), timeout=10.0)
    async with redis.asyncio.Redis.from_url(url) as clock, open_pace(settings, "cluster", rate, share) as pace:
        for _ in range(calls):
            begun = await now()
            await pace.take(objects)
            grants.append((begun, await now(), objects))
    return grants


if __name__ == "__main__":
    _, url, rate, share, objects, calls = sys.argv
    sys.stdout.write(json.dumps(asyncio.run(go(url, float(rate), int(share), int(objects), int(calls)))))
