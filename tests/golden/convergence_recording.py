"""What one real replica showed of the file that it ran, before and after a reload. See README.md."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

FOLDER = Path(__file__).parent / "convergence"

METRICS = (FOLDER / "metrics.txt").read_bytes()
METRICS_AFTER = (FOLDER / "metrics-after-reload.txt").read_bytes()
CONFIGURATION = (FOLDER / "encryption.yaml").read_bytes()
CONFIGURATION_AFTER = (FOLDER / "encryption-after-reload.yaml").read_bytes()

[_row] = map(json.loads, (FOLDER / "identity-leases.jsonl").read_text().splitlines())
LEASE_KEY: bytes = _row["key"].encode()
LEASE: bytes = base64.b64decode(_row["value"])
LEASE_NAME = LEASE_KEY.decode().rpartition("/")[2]
ID_HASH = f"sha256:{hashlib.sha256(LEASE_NAME.encode()).hexdigest()}"
