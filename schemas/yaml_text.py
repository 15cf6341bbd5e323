"""Values as YAML that people read and ``schemas.documents`` reads back as the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from flowplan.schemas.documents import number
from flowplan.schemas.runs import Json, canonical

_LONGEST_LINE = 80
"""Characters of a list or mapping that stands on one line."""


class _Writer(yaml.SafeDumper):
    """Writes short lists and mappings on one line, texts of several lines as blocks, and nothing as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # items of a list stand further in than its key

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the type that a plain scalar is read as, in YAML 1.2 or, as other tools do, in YAML 1.1."""
        found = number(value) if kind is yaml.ScalarNode and implicit[0] and value else None
        if found is None:
            return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return "tag:yaml.org,2002:int" if isinstance(found, int) else "tag:yaml.org,2002:float"

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        node = super().represent_sequence(tag, sequence, _fits(sequence, 1))
        for item, child in zip(sequence, node.value, strict=True):
            if isinstance(item, Mapping):
                child.flow_style = _fits(item, 3)
        return node

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        return super().represent_mapping(tag, mapping, _fits(mapping, 1))


def _fits(value: Json, levels: int) -> bool:
    """Return whether a value is short enough for one line, and has no more levels of lists and mappings."""
    text = canonical(value)
    return len(text) <= _LONGEST_LINE and "\\n" not in text and _depth(value) <= levels


def _depth(value: Json) -> int:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(_depth, children), default=0)


def _text(writer: _Writer, text: str) -> Any:
    block = "\n" in text and not text[0].isspace() and not any(line.endswith(" ") for line in text.split("\n"))
    style = "|" if block else '"' if "\n" in text else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style)


def _number(writer: _Writer, value: Any) -> Any:
    """Write a number as in its source; an octal one of YAML 1.1 as that of YAML 1.2."""
    text = str(getattr(value, "text", None) or value)
    if isinstance(value, int):
        octal = len(text) > 1 and text[0] == "0" and text.isdigit()
        text = f"0o{int(value):o}" if octal else text if number(text) == value else str(int(value))
        return writer.represent_scalar("tag:yaml.org,2002:int", text)
    return writer.represent_scalar("tag:yaml.org,2002:float", text if number(text) == value else repr(float(value)))


_Writer.add_representer(str, _text)
_Writer.add_multi_representer(int, _number)
_Writer.add_multi_representer(float, _number)
_Writer.add_representer(bool, yaml.SafeDumper.represent_bool)


def yaml_text(value: Json) -> str:
    """Return a value as the text of a YAML 1.2 document."""
    written: str = yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=1 << 20)
    return written
