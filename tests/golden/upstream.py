"""Stored values by the format table alone, from cryptographic primitives: shares nothing with our providers.

::

    aescbc     k8s:enc:aescbc:v1:<name>:     IV (16) + AES-CBC(PKCS#7(plaintext))
    aesgcm     k8s:enc:aesgcm:v1:<name>:     nonce (12) + ciphertext + tag (16), AAD = the etcd key
    secretbox  k8s:enc:secretbox:v1:<name>:  nonce (24) + XSalsa20-Poly1305 box
    identity                                 the plaintext itself
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from nacl.bindings import crypto_secretbox_open

from kube_rewrap.config.encryption.configuration import KeyedProvider, Provider


def open_stored(provider: Provider, value: bytes, etcd_key: bytes) -> bytes:
    """Returns the plaintext; any exception means that the value is not this provider's."""
    if not isinstance(provider, KeyedProvider):
        assert not value.startswith(b"k8s:enc:")
        return value
    key = provider.keys[0]
    head = b"k8s:enc:" + provider.type.value.encode() + b":v1:" + key.name.encode() + b":"
    assert value[: len(head)] == head
    body, secret = value[len(head) :], key.secret.reveal()
    match provider.type.value:
        case "aescbc":
            decryptor = Cipher(algorithms.AES(secret), modes.CBC(body[:16])).decryptor()
            unpadder = PKCS7(128).unpadder()
            return unpadder.update(decryptor.update(body[16:]) + decryptor.finalize()) + unpadder.finalize()
        case "aesgcm":
            gcm = Cipher(algorithms.AES(secret), modes.GCM(body[:12], body[-16:])).decryptor()
            gcm.authenticate_additional_data(etcd_key)
            return gcm.update(body[12:-16]) + gcm.finalize()
        case "secretbox":
            return crypto_secretbox_open(body[24:], body[:24], secret)
    raise AssertionError(provider.type)
