"""`rewrap demo`: rewraps generated objects in a throw-away etcd, with the same commands that an operator would use."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from kube_rewrap.cli.demo.registry import (
    RESOURCES,
    Era,
    Shape,
    configuration_of,
    make_key,
    plaintext_era,
    put_in_place,
    seed,
    with_next_key,
)
from kube_rewrap.cli.demo.service import DemoService, run_demo
from kube_rewrap.cli.demo.throwaway import find_etcd, find_redis, throwaway_etcd, throwaway_redis
from kube_rewrap.cli.demo.tour import tour
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import generation_of
from kube_rewrap.cli.output import say
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.flags import EVERY, variable
from kube_rewrap.config.settings.schema import EtcdSettings


def run(args: argparse.Namespace) -> int:
    """Start etcd, fill it, show its state, rewrap, verify, and clean up. Returns the run's exit code."""
    for name in (variable("--settings"), "REWRAP_PASSWORD", *(flag.variable for flag in EVERY)):
        os.environ.pop(name, None)  # the shell's settings may name a real etcd and Redis
    os.environ.setdefault("REWRAP_LOG_LEVEL", "warning")  # fewer log lines between the results
    if args.seed_only is not None:
        return _seed_only(args)
    if args.next_key is not None:
        return _next_key(args.next_key)
    binary = find_etcd(args.etcd)
    with tempfile.TemporaryDirectory(prefix="kube-rewrap-demo-") as directory:
        folder = Path(directory)
        say("Starting a throw-away etcd ...")
        with throwaway_etcd(binary, folder) as url:
            code = _service(args, folder, url) if args.service else _embedded(args, folder, url)
        say("The throw-away etcd is gone.")
    return code


def _embedded(args: argparse.Namespace, folder: Path, url: str) -> int:
    configuration = folder / "encryption-configuration.yaml"
    _seed(url, configuration, args.objects)
    code = _tour(url, configuration, args.rate)
    if code == Exit.DONE:
        say()
        say(f"{args.objects:,} objects were in plaintext or under old keys. `verify` read all under aesgcm:key2.")
        say("No old key is removable yet: that takes kube-apiservers that run the new file, and a compaction of etcd.")
    return code


def _service(args: argparse.Namespace, folder: Path, url: str) -> int:
    with throwaway_redis(find_redis(args.redis), folder) as redis:
        return run_demo(DemoService(folder, url, redis, args.rate, args.objects))


def _seed_only(args: argparse.Namespace) -> int:
    """Fill the empty etcd of `--seed-only`; no object is under the configuration's first key yet."""
    if args.file is None:
        fault = Fault("--file", "is missing", "name the EncryptionConfiguration that --seed-only shall write")
        raise SettingsError("command line", (fault,))
    _seed(args.seed_only, Path(args.file), args.objects)
    return Exit.DONE


def _next_key(path: str) -> int:
    """Change the key of a demonstration: what runs there follows the file."""
    configuration = generation_of(path, allow_readable=False).configuration
    if [entry.resources for entry in configuration.entries] != [RESOURCES]:
        message = f"{path} is not from --seed-only: a kube-apiserver may read it"
        fault = Fault("--next-key", message, "see `rewrap rotate`")
        raise SettingsError("command line", (fault,))
    put_in_place(Path(path), with_next_key(configuration))
    say(f"{path} has a new first key")
    return Exit.DONE


def _seed(url: str, file: Path, objects: int) -> None:
    """Write objects under four providers, and into `file` a configuration with a fifth one before them."""
    old = make_key(ProviderType.AESCBC, "key1")
    older = make_key(ProviderType.AESGCM, "2024-01-31T00:00:00Z", 16)
    oldest = make_key(ProviderType.SECRETBOX, "box")
    plaintext = plaintext_era(1)
    eras = [Era(old, 6), Era(older, 1), Era(oldest, 1), plaintext]
    say(f"Filling it with {objects:,} objects: plaintext, and three providers that came and went ...")
    run_async(lambda: seed(EtcdSettings(endpoints=(url,)), eras, Shape(objects=objects)))
    new = make_key(ProviderType.AESGCM, "key2")
    providers = [new, old, older, oldest, plaintext.provider]
    file.touch(mode=0o600)
    file.write_text(configuration_of(providers, RESOURCES))


def _tour(url: str, configuration: Path, rate: str) -> int:
    """Run the commands one after another, as an operator would type them."""
    common = ["--endpoints", url, "--encryption-config", str(configuration)]
    return tour((words, common) for words in (["status"], ["run", "--rate", rate], ["verify"], ["keys"]))
