"""What holds for any text: the loader answers or refuses, and shows no key; layouts find back what they placed."""

from __future__ import annotations

import base64
import json
import traceback

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kube_rewrap.config.encryption.builtin import RESOURCES_BY_GROUP
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located
from kube_rewrap.config.errors import ConfigError, DocumentError, SettingsError
from kube_rewrap.config.parsing.golang import decode_base64, parse_duration, url_scheme

HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"

# ---------------------------------------------------------------------------------------------- texts and structures

FRAGMENTS = st.sampled_from([
    "a", "yes", "1e3", "-", "- ", ": ", ":", "? ", "{", "}", "[", "]", ", ", "\n", "\n  ", "\n    ", "\t", " ", "#",
    "'", '"', "\\", "|", ">", "&x ", "*x", "!!str ", "!!binary ", "!t ", "! ", "<<: ", "---\n", "...\n",
    "%YAML 1.1\n", "%TAG ! x\n", "resources: ", "providers: ", "aescbc: ", "keys: ", "name: k", "secret: ", "kms: ",
    "identity: {}", HEAD, "\ufeff", "\x00",
    "\u2028", "\x85", "é", "~", "null", ".inf", "0x", "\\ud800", "\\U00110000",
])  # fmt: skip
YAMLISH = st.lists(FRAGMENTS, max_size=30).map("".join)

NAMES = st.sampled_from([
    "apiVersion", "kind", "resources", "providers", "aescbc", "aesgcm", "secretbox", "identity", "kms", "keys", "name",
    "secret", "endpoint", "timeout", "cachesize", "Resources", "extra",
])  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["apiserver.config.k8s.io/v1", "EncryptionConfiguration", "secrets", "*.", "*.*", "v2", "unix:///s", "3s"]
    )
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


def refusal(raw: bytes) -> ConfigError | None:
    """The refusal of a file; any other exception fails the test."""
    try:
        load(raw, "f")
    except ConfigError as error:
        refused = error
    else:
        return None
    assert refused.faults
    assert all(fault.message and fault.remedy for fault in refused.faults)
    assert refused.__context__ is None
    assert refused.__cause__ is None
    return refused


@given(st.binary(max_size=200))
@example(b"\xff\xfe\x00\xd8")
@example(b"%YAML 1.1")
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    refusal(raw)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    refusal(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=400)
@given(YAMLISH)
def test_any_yaml_like_text_is_read_or_refused(text: str) -> None:
    refusal(text.encode())


@given(st.text(st.sampled_from('{}[]",:0123456789.eE+-truefalsn\\ \n\t'), max_size=60))
def test_any_json_like_text_is_read_or_refused(text: str) -> None:
    refusal(("{" + text).encode())


@settings(max_examples=300)
@given(TREES)
def test_any_structure_is_read_or_refused(tree: object) -> None:
    refusal(HEAD.encode() + yaml.safe_dump({"resources": tree}, allow_unicode=True).encode())
    refusal(yaml.safe_dump(tree, allow_unicode=True).encode())


@given(TREES)
def test_json_and_yaml_of_one_tree_get_one_verdict(tree: object) -> None:
    # NaN and infinities have no JSON; floats that are whole are integers to Go in YAML only.
    document = {"apiVersion": "v1", "kind": "EncryptionConfig", "resources": tree}
    try:
        text = json.dumps(document, allow_nan=False)
    except ValueError:
        return
    in_json = refusal(text.encode())
    # A quoted YAML scalar is a JSON string, so the JSON text behind a comment is YAML of the same tree.
    in_yaml = refusal(b"# yaml\n" + text.encode())
    if isinstance(in_yaml, DocumentError):
        return  # escaped surrogate halves, which Go's JSON replaces and YAML refuses
    if "." in text or "e" in text.lower():
        return
    assert (in_json is None) is (in_yaml is None)


# ------------------------------------------------------------------------------------------------------------ canary

# Beginning with a byte that no word of a message has: Hypothesis tries words of the sources, such as EncryptionConfig.
KEYS = st.binary(min_size=15, max_size=47).map(lambda raw: base64.b64encode(b"\xff" + raw).decode())
ENTRY = HEAD + "resources:\n- resources: [secrets]\n  providers:\n"
PLACES = st.sampled_from([
    "{entry}  - aescbc:\n      keys:\n      - name: k\n        secret: {key}\n",
    "{entry}  - aescbc: {{keys: [{{name: k, secret: {key}}}]}}\n    identity: {{}}\n",
    "{entry}  - secretbox: {{keys: [{{name: {key}, secret: '{key}@'}}]}}\n",
    "{entry}  - aesgcm: {{keys: [{{name: k, {key}: }}]}}\n",
    "{entry}  - kms: {{name: '{key}:', apiVersion: '{key}', endpoint: '{key}', timeout: '{key}'}}\n",
    "{head}resources:\n- resources: ['{key}', '*.{key}']\n  providers:\n  - aesgcm: '{key}'\n",
    "{head}'{key}': '{key}'\n",
    "{head}{key}: !!binary {key}\n",
    "apiVersion: '{key}'\nkind: '{key}'\n",
    "&{key} *{key}\n",
    "a: *{key}\n",
    "!{key}! x\n",
    "{head}resources:\n- resources: [secrets]\n- {key}\n  - {key}\nproviders: {key}\n",
    "{head}\t{key}",
    '"{key}\\q"',
    "'{key}",
    '{{"apiVersion": "v1", "kind": "EncryptionConfig", "{key}": "{key}", "{key}": {key}}}',
    '{{"apiVersion": "v1", "kind": "EncryptionConfig", "resources": "{key}", "{key}": "{key}"}}',
    "{key}\x00",
])  # fmt: skip


@settings(max_examples=400)
@given(KEYS, PLACES, st.sampled_from(["", "\n- broken: [", "\nkind: again\n", "\n\xff"]))
def test_no_refusal_and_no_repr_holds_key_material(key: str, place: str, tail: str) -> None:
    raw = (place.format(head=HEAD, entry=ENTRY, key=key) + tail).encode("latin-1")
    try:
        shown = repr(load(raw, "f"))
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.faults)
    assert key not in shown
    assert key.rstrip("=") not in shown
    assert repr(base64.b64decode(key))[2:-1] not in shown
    assert base64.b64decode(key).hex() not in shown


@given(st.binary(max_size=64))
def test_what_go_encodes_it_decodes(raw: bytes) -> None:
    text = base64.b64encode(raw).decode()
    assert decode_base64("\r\n".join(text)) == raw


@given(st.text(max_size=30))
def test_go_formats_take_any_text(text: str) -> None:
    decode_base64(text)
    parse_duration(text)
    url_scheme(text)


# ------------------------------------------------------------------------------------------------------------ layout

SEGMENTS = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?", fullmatch=True)
PLURALS = st.from_regex(r"[a-z]{1,12}", fullmatch=True)
CUSTOM_GROUPS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){1,3}", fullmatch=True).filter(
    lambda group: group not in RESOURCES_BY_GROUP
)
BUILT_IN = st.sampled_from(
    [GroupResource(plural, group) for group, plurals in RESOURCES_BY_GROUP.items() for plural in plurals]
)
RESOURCES = BUILT_IN | st.builds(GroupResource, PLURALS, CUSTOM_GROUPS)
PREFIXES = st.sampled_from(["/registry", "/kubernetes.io", "registry/", "/", "/a/b/c"])


@given(RESOURCES, PREFIXES, st.none() | SEGMENTS, SEGMENTS)
def test_a_layout_finds_back_what_it_placed(
    resource: GroupResource, prefix: str, namespace: str | None, name: str
) -> None:
    layout = Layout(prefix)
    path = layout.prefix_of(resource)
    assert path is not None
    key = path + ("" if namespace is None else f"{namespace}/").encode() + name.encode()
    assert layout.resource_at(key) == Located(resource, namespace, name)
    assert layout.top_level_unit(key) == path
    assert path.startswith(layout.root)
    assert path.endswith(b"/")
    assert not layout.never_encrypted(key)


SLIPS = st.builds(
    GroupResource,
    st.sampled_from([plural for plurals in RESOURCES_BY_GROUP.values() for plural in plurals])
    | st.text(alphabet="abs.-/*", max_size=6),
    st.sampled_from(list(RESOURCES_BY_GROUP)) | CUSTOM_GROUPS | st.text(alphabet="as.-/", max_size=6),
).filter(lambda one: not one.is_wildcard)
EXTRA_PATHS = st.lists(st.sampled_from(["a", "b", "secrets", "services", "x.io", "pods", ".."]), max_size=3)


@given(SLIPS, SLIPS, st.lists(st.tuples(SLIPS.map(str), EXTRA_PATHS.map("/".join)), max_size=2))
def test_no_two_names_share_a_path_whatever_is_told(
    one: GroupResource, other: GroupResource, extra: list[tuple[str, str]]
) -> None:
    try:
        layout = Layout(extra=tuple(extra))
    except SettingsError:
        layout = Layout()
    for resource in (one, *(GroupResource.parse(name) for name, _ in layout.extra)):
        path = layout.prefix_of(resource)
        assert (path is None) is (layout.why_idle(resource) is not None)
        if path is None:
            continue
        assert layout.resource_at(path + b"ns/a") == Located(resource, "ns", "a")
        assert not layout.never_encrypted(path)
        theirs = layout.prefix_of(other)
        if other != resource and theirs is not None:
            assert not path.startswith(theirs)
            assert not theirs.startswith(path)


@given(st.binary(max_size=60), PREFIXES)
def test_any_key_has_an_answer(key: bytes, prefix: str) -> None:
    layout = Layout(prefix)
    for candidate in (key, layout.root + key):
        unit = layout.top_level_unit(candidate)
        assert unit is None or (candidate.startswith(unit) and unit.endswith(b"/"))
        if layout.never_encrypted(candidate):
            assert layout.resource_at(candidate) is None


@given(st.text(max_size=20))
def test_a_resource_name_is_parsed_and_written_back(name: str) -> None:
    parsed = GroupResource.parse(name)
    assert GroupResource.parse(str(parsed)) == parsed
