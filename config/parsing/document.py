"""Bytes of a configuration file to a plain tree: YAML, or JSON where kube-apiserver takes it for JSON.

Handled here: character encoding, the choice of the format, the translation into DocumentError.
Not handled: what the fields mean; duplicates stay in the tree for `decode` to report with their path.
"""

from __future__ import annotations

import codecs
import re

from kube_rewrap.config.errors import DocumentError, Fault
from kube_rewrap.config.parsing.json_text import parse_json
from kube_rewrap.config.parsing.node import Node
from kube_rewrap.config.parsing.yaml_events import UnreadableTextError
from kube_rewrap.config.parsing.yaml_text import parse_yaml

__all__ = ["Node", "parse"]

# libyaml's reader takes these characters; a byte order mark only in front.
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def parse(raw: bytes, file: str) -> Node:
    """Return the tree of the document. Raises DocumentError, which neither holds nor chains any of the text.

    JSON when the first character that is not white space is `{` (apimachinery: pkg/util/yaml, IsJSONBuffer),
    so a YAML flow mapping that starts with a brace is refused, as upstream refuses it.
    """
    refused: UnreadableTextError
    try:
        return _parse(raw)
    except UnreadableTextError as error:
        refused = error
    # Outside the handler, so that no error that holds the text is chained.
    fault = Fault("", str(refused), "give an EncryptionConfiguration in YAML or JSON", refused.line)
    raise DocumentError(file, (fault,))


def _parse(raw: bytes) -> Node:
    if not raw:
        raise UnreadableTextError("the file is empty", None)
    text, marked = _decode(raw)
    if not marked and text.lstrip().startswith("{"):
        return parse_json(text)
    strange = _NOT_YAML.search(text)
    if strange:
        line = text.count("\n", 0, strange.start()) + 1
        raise UnreadableTextError(f"it holds the character U+{ord(strange[0]):04X}, which YAML does not allow", line)
    return parse_yaml(text)


def _decode(raw: bytes) -> tuple[str, bool]:
    """Return the text without its byte order mark, and whether it had one: upstream parses a marked text as YAML."""
    mark, encoding = next((pair for pair in _MARKS if raw.startswith(pair[0])), (b"", "utf-8"))
    try:
        return raw[len(mark) :].decode(encoding), bool(mark)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1 if encoding == "utf-8" else None
    # Outside the handler: a UnicodeDecodeError holds the bytes.
    raise UnreadableTextError(f"its text is not {encoding.upper()}", line)
