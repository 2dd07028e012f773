"""`rewrap report` as an operator calls it, on real records; and its page in a real Chromium where there is one."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.acceptance.command import ROOT, Command, Ended, command_for
from tests.acceptance.control_plane import control_plane
from tests.acceptance.marks import BOX, CBC, GCM, LOST, PAYLOAD, marks_in
from tests.acceptance.rotate.running import end_well, stop_at_spread
from tests.acceptance.rotate.texts import OLD, plain
from tests.integration.apiserver import configure, manifest, secrets, store
from tests.servers.etcd import EtcdCluster

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text("utf-8"))
SECRET_NAME = "s00001"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_PROBE = """<pre id="probe"></pre><script>
const root = document.documentElement;
const style = element => getComputedStyle(element);
document.getElementById("probe").textContent = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth,
  width: root.clientWidth,
  paper: style(document.body).backgroundColor,
  ink: style(document.body).color,
  head: style(document.querySelector("thead")).position,
  loaded: performance.getEntriesByType("resource").length,
  title: document.querySelector("h1").textContent,
});
</script>"""


@pytest.fixture
def rewrap(etcd: EtcdCluster, tmp_path: Path) -> Command:
    """Five secrets under an old key, and two more keys in the file; nothing rewrapped yet."""
    store(etcd.admin(), secrets(5, payload=PAYLOAD), CBC)
    return command_for(tmp_path, etcd, configure(tmp_path, GCM, CBC, BOX))


def report(rewrap: Command, *flags: str, code: int = 0) -> dict[str, Any]:
    """Returns the document of a report, checked against the schema and for marks of keys and objects."""
    ended = clean(rewrap.run("report", "-o", "json", *flags))
    assert ended.code == code, ended.stdout + ended.stderr
    Draft202012Validator(SCHEMA).validate(ended.document)
    return ended.document


def clean(ended: Ended) -> Ended:
    assert marks_in(ended.stdout + ended.stderr) == []
    return ended


def test_a_campaign_is_reported_from_its_record(rewrap: Command, etcd: EtcdCluster) -> None:
    assert rewrap.run("report", "-o", "json").code == 4, "no campaign is on record"
    ran = rewrap.json("run")
    revision = etcd.admin().revision()
    document = report(rewrap)
    assert document["subject"] == {"kind": "campaign", "id": ran["campaign"]}
    assert (document["proof"]["revision"], document["proof"]["complete"]) == (ran["proof"]["revision"], True)
    assert [document["proof"][name] for name in ("objects", "stale", "unreadable")] == [5, 0, 0]
    [counted] = document["proof"]["keys"]
    assert (counted["fingerprint"], counted["objects"], counted["state"]) == (GCM.fingerprint, 5, "current")
    [actor] = document["proof"]["by"]
    assert actor.startswith("rewrap run ")
    assert document["campaign"]["report"]["rewritten"] == 5
    assert "no address of a kube-apiserver is given" in document["campaign"]["convergence"]
    assert [entry["event"] for entry in document["audit_log"]["trail"]] == ["campaign.planned", "campaign.finished"]
    assert document["audit_log"]["whole"] is True
    [governed] = document["governed"]["entries"]
    assert (governed["resources"], governed["writes"]["fingerprint"]) == (["secrets"], GCM.fingerprint)
    assert [key["fingerprint"] for key in governed["reads"]] == [CBC.fingerprint, BOX.fingerprint]
    [writer] = [key for key in document["keys"]["keys"] if key["writes"]]
    assert (writer["objects"], writer["limit"], writer["state"]) == (5, 200_000, "ok")
    assert 0 < writer["collision_probability"] < 1e-20
    assert document["scan"]["keys"][0]["objects"] == 5
    audited = rewrap.run("audit", "-o", "json").document["checks"]
    assert [(one["id"], one["state"]) for one in document["checklist"]["checks"]] == [
        (one["id"], one["state"]) for one in audited
    ]
    assert report(rewrap, "--campaign", ran["campaign"], "--no-scan")["scan"] is None
    assert etcd.admin().revision() == revision, "it wrote"


def test_the_present_state_is_proven_by_a_scan_and_names_no_object_unasked(rewrap: Command, etcd: EtcdCluster) -> None:
    assert report(rewrap, "--now", code=3)["proof"]["stale"] == 5
    rewrap.json("run")
    revision = etcd.admin().revision()
    document = report(rewrap, "--now")
    assert document["proof"] | {"at": "", "by": []} == {
        "source": "scan",
        "complete": True,
        "revision": revision,
        "at": "",
        "by": [],
        "generation": document["configuration"]["generation"],
        "because": f"Complete: a scan read all 5 objects at revision {revision} with their primary keys.",
        "objects": 5,
        "stale": 0,
        "unreadable": 0,
        "total": 1,
        "keys": document["scan"]["keys"],
    }
    store(etcd.admin(), {f"/registry/secrets/zone/{SECRET_NAME}": manifest("Secret", "zone", "x", PAYLOAD)}, LOST)
    hidden = report(rewrap, "--now", code=3)
    assert (hidden["quarantine"]["total"], hidden["quarantine"]["objects"]) == (1, None)
    assert SECRET_NAME not in json.dumps(hidden)
    [shown] = report(rewrap, "--now", "--names", code=3)["quarantine"]["objects"]
    assert shown["key"] == f"/registry/secrets/zone/{SECRET_NAME}"
    page = clean(rewrap.run("report", "--now"))
    assert (page.code, SECRET_NAME in page.stdout) == (3, False)


def test_a_record_that_was_changed_in_etcd_is_no_proof(rewrap: Command, etcd: EtcdCluster) -> None:
    store(etcd.admin(), {f"/registry/secrets/zone/{SECRET_NAME}": manifest("Secret", "zone", "x", PAYLOAD)}, LOST)
    campaign = rewrap.json("run", code=3)["campaign"]
    left = report(rewrap, code=3)
    assert [left["proof"][name] for name in ("complete", "objects", "unreadable")] == [False, 6, 1]
    key = f"/kube-rewrap/v1/campaigns/{campaign}"
    found = etcd.admin().get(key)
    assert found is not None
    etcd.admin().put(key, json.dumps(json.loads(found.value) | {"state": "complete"}).encode())
    verdict = report(rewrap, code=3)["verdict"]
    assert (verdict["state"], verdict["sentence"]) == (
        "not_proven",
        "The campaign's record and the audit log's entry about its end differ: state.",
    )


def test_a_rotation_is_reported_at_any_step_and_with_what_its_proof_counted(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        stop_at_spread(plane, "--prune")
        named = plane.rotation()["id"]
        begun = report(plane.rewrap, "--rotation", named, code=3)
        assert (begun["verdict"]["state"], begun["proof"], begun["campaign"]) == ("not_proven", None, None)
        assert begun["verdict"]["sentence"].startswith("The rotation of ")
        end_well(plane.rewrap.start("rotate", "resume"))
        done = report(plane.rewrap, "--rotation", named)
        new = plane.new_key()
        plane.rewrap.json("run")
        assert report(plane.rewrap)["campaign"]["convergence"].startswith("all kube-apiservers (3) run sha256:")
    assert done["subject"] == {"kind": "rotation", "id": named}
    assert done["proof"]["objects"] == sum(one["objects"] for one in done["proof"]["keys"]) > 0
    assert {one["fingerprint"] for one in done["proof"]["keys"]} == {new.fingerprint}
    [rotation] = done["rotations"]["rotations"]
    assert (rotation["step"], rotation["proof_revision"]) == ("done", done["proof"]["revision"])
    assert [one["step"] for one in rotation["passed"]][:4] == ["add", "spread", "promote", "switch"]
    assert done["apiservers"]["converged"] is True


def test_with_a_catalogue_the_checklist_judges_the_newest_backup(
    rewrap: Command, etcd: EtcdCluster, tmp_path: Path
) -> None:
    rewrap.json("run")
    etcd.save(tmp_path / "backup.db")
    catalogue = str(tmp_path / "catalogue.jsonl")
    offline = Command(tmp_path, ("--encryption-config", str(rewrap.directory / "enc.json")))
    assert offline.run("backups", "add", str(tmp_path / "backup.db"), "--catalogue", catalogue).code == 0
    document = report(rewrap, "--now", "--catalogue", catalogue)
    checks = {one["id"]: one for one in document["checklist"]["checks"]}
    found = document["backups"]
    assert (found["total"], found["readable"], found["newest"]["objects"], found["newest"]["readable"]) == (
        1,
        1,
        5,
        True,
    )
    assert found["newest"]["sha256"] == hashlib.sha256((tmp_path / "backup.db").read_bytes()).hexdigest()
    assert [(one["fingerprint"], one["configured"]) for one in found["keys"]] == [(GCM.fingerprint, True)]
    assert report(rewrap, "--no-scan", "--catalogue", catalogue)["backups"] is None
    assert checks["backup-age"]["state"] == "pass"
    assert "proven readable" in checks["backup-age"]["reason"]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--campaign", "20260101-000000-000000"), 4, "no campaign 20260101-000000-000000 is on record"),
        (("--rotation", "20260101-000000-000000"), 4, "no rotation 20260101-000000-000000 is on record"),
        (("--campaign", "../../secrets"), 2, "--campaign"),
        (("--now", "--no-scan"), 2, "--no-scan: contradicts --now"),
        (("--now", "--campaign", "x"), 2, "not allowed with"),
    ],
)
def test_what_it_refuses(rewrap: Command, flags: tuple[str, ...], code: int, said: str) -> None:
    ended = rewrap.run("report", *flags)
    assert (ended.code, ended.stdout) == (code, "")
    assert said in ended.stderr


def test_the_page_is_written_for_its_owner_alone(rewrap: Command, tmp_path: Path) -> None:
    rewrap.json("run")
    file = tmp_path / "report.html"
    file.write_text("older and longer " * 10_000)
    file.chmod(0o644)
    ended = clean(rewrap.run("report", "--write-to", str(file), "--overwrite"))
    assert (ended.code, ended.stdout) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text("ascii")
    assert (written.startswith("<!doctype html>"), written.endswith("</html>\n")) == (True, True)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("nowhere/report.html", (), "nowhere/report.html can't be written: No such file or directory"),
        ("enc.json", (), "enc.json exists; name another file, or give --overwrite"),
        ("", ("--overwrite",), "is no regular file"),
        ("link", ("--overwrite",), "link is no regular file"),
    ],
)
def test_a_place_that_it_can_not_write_to_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, flags: tuple[str, ...], said: str
) -> None:
    configuration = configure(tmp_path, GCM)
    before = configuration.read_bytes()
    (tmp_path / "link").symlink_to(configuration)
    away = Command(tmp_path, ("--encryption-config", str(configuration), "--endpoints", "http://127.0.0.1:1"))
    ended = away.run("report", "--now", "--write-to", str(tmp_path / name), *flags)
    assert (ended.code, ended.stdout) == (2, ""), "5 if it had asked etcd"
    assert f"--write-to: {tmp_path}" in ended.stderr
    assert said in ended.stderr
    assert configuration.read_bytes() == before


def chromium(profile: Path, *flags: str) -> bytes:
    """Starts Chromium with a new profile, and returns what it printed."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    offline = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    quiet = ("--disable-gpu", "--no-first-run", "--hide-scrollbars", *offline)
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}", *flags]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture
def page(rewrap: Command, tmp_path: Path) -> Path:
    rewrap.json("run")
    file = tmp_path / "report.html"
    assert rewrap.run("report", "--names", "--write-to", str(file)).code == 0
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_chromium_shows_the_page(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    # A copy may run a script that measures; the page itself forbids every script.
    measured = tmp_path / "measured.html"
    without = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("ascii"))
    measured.write_text(without.replace("</body>", f"{_PROBE}</body>"))
    flags = (f"--window-size={width},900", *(("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()))
    shown = chromium(tmp_path / "profile", *flags, "--dump-dom", f"file://{measured}").decode()
    [probe] = re.findall(r'<pre id="probe">(.*?)</pre>', shown, re.DOTALL)
    found = json.loads(html.unescape(probe))
    assert found | {"width": width} == {
        "overflow": 0,
        "width": width,
        "paper": "rgb(18, 22, 28)" if scheme == "dark" else "rgb(246, 247, 249)",
        "ink": "rgb(230, 234, 240)" if scheme == "dark" else "rgb(27, 35, 48)",
        "head": "absolute" if width < 700 else "static",
        "loaded": 0,
        "title": "Proven, with caveats",
    }


def test_chromium_prints_the_page(page: Path, tmp_path: Path) -> None:
    printed = tmp_path / "report.pdf"
    chromium(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={printed}", f"file://{page}")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 8
