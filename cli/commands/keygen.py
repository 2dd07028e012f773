"""`rewrap keygen [PROVIDER]`: a key from the system's random source, or a ready provider block."""

from __future__ import annotations

import argparse
import base64
import json
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.output import print_json, say
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError

_SECRETBOX_BYTES = 32


def run(args: argparse.Namespace) -> int:
    """Print a fresh key. The output is secret: redirect it to a file of mode 0600."""
    if args.provider == "secretbox" and args.bytes != _SECRETBOX_BYTES:
        fault = Fault("--bytes", "secretbox keys have 32 bytes", "leave --bytes out")
        raise SettingsError("command line", (fault,))
    material = os.urandom(args.bytes)
    secret = base64.b64encode(material).decode("ascii")
    if args.output == "json":
        block = {} if args.provider is None else _named(args.provider, args.name, material)
        print_json({"secret": secret, **block})
    elif args.provider is None:
        say(secret)
    else:
        say(f"# fingerprint {SecretBytes(material).fingerprint(args.provider)}")
        say(f"- {args.provider}:")
        say("    keys:")
        say(f"    - name: {_quoted(args.name)}")
        say(f"      secret: {secret}")
    return Exit.DONE


def _named(provider: str, name: str, material: bytes) -> dict[str, object]:
    return {"provider": provider, "name": name, "fingerprint": SecretBytes(material).fingerprint(provider)}


def _quoted(name: str) -> str:
    """Quote the name as JSON does, which YAML reads alike: an unquoted 1 or yes would not be a string."""
    return json.dumps(name, ensure_ascii=False)
