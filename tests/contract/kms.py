"""The client of a KMS plugin, for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.wrapped import KmsVersion, Plugin, SourceType

SEED = SecretBytes(bytes(range(32)))
SEED_TYPE = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
PROJECT = Path(__file__).parents[2]
ESCAPE = "\x1b[31mred\x1b[0m"
PATIENCE = 10.0


@asynccontextmanager
async def client_of(endpoint: str, version: KmsVersion = "v2", seconds: float = 3.0) -> AsyncIterator[KmsClient]:
    client = KmsClient(Plugin("vault", version, endpoint, seconds))
    try:
        yield client
    finally:
        await client.close()
