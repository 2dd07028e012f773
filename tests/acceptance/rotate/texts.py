"""The configuration files that rotations begin with, and come to."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

from tests.integration.apiserver import Key, configuration

OLD = Key.new("aescbc", "old")
ODD = """\
# Encryption of the control plane. Ask the platform team before you touch it.
apiVersion: apiserver.config.k8s.io/v1
kind:   EncryptionConfiguration   # the spacing is odd, and stays

resources:
    - resources: [ "secrets" ]     # what matters
      providers:
          - aescbc:
              keys:
{block}

          - identity: {{}}    # for what was never rewritten
    # config maps are few
    - providers:
      - aescbc: {{keys: [{flow}]}}
      resources:
      - configmaps
# the end
"""


def odd(*keys: Key) -> str:
    """The odd file, with the old key and the new one in some order."""
    block = "\n".join(OLD_LINES if key == OLD else new_lines(key) for key in keys)
    flow = ", ".join(f"{{name: {key.name}, secret: {secret(key)}}}" for key in keys)
    return ODD.format(block=block, flow=flow)


def secret(key: Key) -> str:
    return base64.b64encode(key.material).decode()


def new_lines(key: Key) -> str:
    return f"                  - name: {key.name}\n                    secret: {secret(key)}"


OLD_LINES = (
    "                  # made by hand in spring\n"
    f'                  - name: "old"\n                    secret: {secret(OLD)}   # 32 bytes'
)


def plain(*keys: Key) -> str:
    return configuration((["secrets"], keys))


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)
