"""By how many bytes a KMS provider makes a stored value larger than its plaintext, found by one trial seal."""

from __future__ import annotations

import secrets
from dataclasses import replace

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.data_keys import DataKeys
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.wrapped import DataKey, SourceType, hash_of_key_id

_TRIAL = bytes(1_024)
"""A plaintext of about an object's size; some lengths in a value take more bytes for a large one."""


def growth_by(data_key: DataKey) -> int:
    """Return by how many bytes a value is larger than its plaintext, with a data key that was wrapped like this."""
    wrapped, version = data_key.wrapped, data_key.wrapped.plugin.version
    if version == "v2":
        wrapped = replace(wrapped, source_type=SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED)
    plugin = wrapped.plugin
    provider = KmsProvider(version, plugin.name, plugin.endpoint, plugin.timeout_seconds, None)
    chain = Chain([provider], targets={plugin.name: hash_of_key_id(wrapped.key_id)})
    return len(chain.seal(_TRIAL, b"/", DataKey(wrapped, data_key.secret))) - len(_TRIAL)


def trial_key() -> SecretBytes:
    """Return a random data key, for `growth_by`."""
    return SecretBytes(secrets.token_bytes(32))


async def trial_growth(chain: Chain, data_keys: DataKeys) -> int:
    """Return by how many bytes a value grows under the primary of a chain, 0 without KMS; makes one data key.

    Raises the errors of `DataKeys`.
    """
    if chain.kms_primary is None:
        return 0
    [data_key] = await data_keys.data_keys(*chain.kms_primary, 1)
    return len(chain.seal(_TRIAL, b"/", data_key)) - len(_TRIAL)
