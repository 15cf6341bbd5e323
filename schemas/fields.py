"""The scalar types of the spec: each checks a value in words made for people, and knows its JSON Schema.

Every one of them takes an expression string too, as long as expressions have not been evaluated; the validation context
``{"evaluated": True}`` says that they have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from flowplan.schemas.backoff import STEPEST
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.quantities import DURATION_PATTERN, LONGEST, QUANTITY_PATTERN, SIZE_PATTERN
from flowplan.schemas.sources import did_you_mean
from flowplan.schemas.text import shortened

BEYOND_ASCII = "\u00a1-\uffff"
"""The letters of other scripts, in the sets of the patterns of names."""

EXPRESSION_PATTERN = r"\$\{(?:(?:var|each|run)\.[^}]*|project|environment)\}"
_EXPRESSION = re.compile(EXPRESSION_PATTERN)
EXPRESSION_SCHEMA = {"type": "string", "pattern": EXPRESSION_PATTERN}
TEXT_SCHEMA: dict[str, Any] = {"type": "string"}
FILLED_SCHEMA = {"type": "string", "minLength": 1}
FLAG_SCHEMA = {"type": "boolean", "errorMessage": "must be true or false"}  # the message is for editors
SCALAR_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}

TAG = "\0"
"""Starts the tags of unions, which pydantic puts into the paths of its errors; no key of a document can hold it."""

Check = Callable[[Any], str]
"""Takes a value and says what is wrong with it, or "" when nothing is."""


def kind_of(value: Any) -> str:
    """Return what people call a JSON value: ``a list``, ``a mapping``, ``null``, ``the number 3``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {scalar_text(value)}"
    if isinstance(value, int | float):
        return f"the number {scalar_text(value)}"
    if isinstance(value, str):
        return f'"{shortened(value, 60)}"'
    return "a list" if isinstance(value, list) else "a mapping"


def fault(message: str) -> PydanticCustomError:
    """Return a validation error whose message is complete; nothing in it is a template."""
    return PydanticCustomError("flowplan", "{message}", {"message": message})


def is_expression(value: Any) -> bool:
    """Return whether the string holds an expression that flowplan evaluates."""
    return isinstance(value, str) and "${" in value and _EXPRESSION.search(value) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Metadata of an ``Annotated`` type: ``check`` for pydantic, ``schema`` for JSON Schema, expressions let through."""

    check: Check
    schema: dict[str, Any]
    expression: bool = True

    def validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        if self.expression and is_expression(value) and not (info.context and info.context.get("evaluated")):
            return value
        wrong = self.check(value)
        if wrong:
            raise fault(wrong)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema, which an expression matches too; one that is no choice gives the clearest messages."""
        if not self.expression or self.schema.get("type") == "string":
            return dict(self.schema)
        if "enum" in self.schema:
            return {"oneOf": [self.schema, EXPRESSION_SCHEMA]}
        patterns = [*filter(None, [self.schema.get("pattern")]), EXPRESSION_PATTERN]
        return {**self.schema, "type": [self.schema["type"], "string"], "pattern": "|".join(patterns)}


class OneOf:
    """Metadata of an ``Annotated`` type: what the value must be is decided by its kind, so each fault is told once."""

    def __init__(
        self, scalar: Any = None, *, mapping: Any = None, items: Any = None, word: str = "a string", words: str = ""
    ) -> None:
        kinds = {word: scalar, "a list": items, "a mapping": mapping}
        self.words = words or " or ".join(text for text, member in kinds.items() if member is not None)
        known = {TAG + "scalar": scalar, TAG + "map": mapping, TAG + "list": items}
        self.members = {tag: member for tag, member in known.items() if member is not None}

    def kind(self, value: Any) -> str:
        """Return the member that a value is meant to be; the tags never reach the user."""
        return TAG + ("map" if isinstance(value, dict) else "list" if isinstance(value, list) else "scalar")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        choices = {tag: handler.generate_schema(member) for tag, member in self.members.items()}
        return core_schema.tagged_union_schema(
            choices, self.kind, custom_error_type="flowplan_kind", custom_error_message=self.words
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return one schema for all kinds that can be told by ``type``: editors then say what the value must be."""
        choices = handler(schema)["oneOf"]
        plain = [choice for choice in choices if "type" in choice]
        merged = {key: value for choice in plain for key, value in choice.items()}
        types = [name for choice in plain for name in as_list(choice["type"])]
        merged |= {"type": types, "errorMessage": f"must be {self.words}"}
        return {"oneOf": [*(choice for choice in choices if choice not in plain), merged]}


def as_list(types: str | list[str]) -> list[str]:
    """Return the ``type`` of a JSON Schema as a list."""
    return [types] if isinstance(types, str) else types


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(kinds: type | UnionType, words: str) -> Check:
    """Return the check for a value of these types; ``words`` say what it must be."""
    return lambda value: "" if isinstance(value, kinds) else f"must be {words}, not {kind_of(value)}"


_text = _one_of(str, "a string")
_text_or_list = _one_of(str, "a string or a list")
_flag = _one_of(bool, "true or false")
_flag_beside_names = _one_of(bool, "true, false or a list of names")
_scalar = _one_of(str | int | float, "a string, a number or a boolean")


def _filled(value: Any) -> str:
    return "must not be empty" if value == "" else _text(value)


def _filled_or_list(value: Any) -> str:
    return _filled(value) if value == "" else _text_or_list(value)


def _password(value: Any) -> str:
    """Check as ``_filled`` does, without telling the value."""
    return _filled(value) if isinstance(value, str) else "must be a string; write it in quotes"


def _never(value: Any) -> str:
    return f"must be a list, a range with from and to, or an expression, not {kind_of(value)}"


def _any_or_null(value: Any) -> str:
    return "" if value is None else _scalar(value)


def _matching(pattern: str, words: str) -> Check:
    # Compiled when first used, and for ASCII without what lies beyond it: that range takes milliseconds to compile.
    ascii_only = pattern.replace(BEYOND_ASCII, "")

    def check(value: Any) -> str:
        if isinstance(value, str) and re.search(ascii_only if value.isascii() else pattern, value):
            return ""
        return f"must be {words}, not {kind_of(value)}"

    return check


def _measured(pattern: str, words: str, lowest: float = 0) -> Checked:
    """Return the type of a number of at least ``lowest``, or a string of the pattern."""
    matches = _matching(pattern, words)
    schema = {"type": "number", "minimum": lowest, "pattern": pattern, "errorMessage": f"must be {words}"}

    def check(value: Any) -> str:
        if _number(value):
            return "" if lowest <= value < float("inf") else f"must be {words}, not {kind_of(value)}"
        if isinstance(value, str) and len(value) > LONGEST:
            return f"must be {words}, not {kind_of(value)}"
        return matches(value)

    return Checked(check, schema)


def _factor(value: Any) -> str:
    within = _number(value) and 1 <= value <= STEPEST
    return "" if within else f"must be a number from 1 to {STEPEST:g}, not {kind_of(value)}"


def choice(words: Mapping[str, str]) -> Checked:
    """Return the type of a string out of a few: each word, and what editors show beside it."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return ""
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        return f"must be one of {', '.join(words)}, not {kind_of(value)}" + (f"; {near}" if near else "")

    return Checked(check, words_schema(words))


def words_schema(words: Mapping[Any, str]) -> dict[str, Any]:
    """Return the JSON Schema of values out of a few, with what editors show beside each."""
    return {"enum": list(words), "enumDescriptions": list(words.values())}


def _protect(value: Any) -> str:
    if value is False or value in ("active", "always"):
        return ""
    return f"must be active, always or false, not {kind_of(value)}"


def matching(expression: str, words: str) -> Checked:
    """Return the type of a string that must match, and takes no flowplan expression."""
    schema = {"type": "string", "pattern": expression, "errorMessage": f"must be {words}"}
    return Checked(_matching(expression, words), schema, expression=False)


def at_least(lowest: int) -> Checked:
    """Return the type of a whole number of at least ``lowest``; JSON Schema counts 1.0 as one."""

    def check(value: Any) -> str:
        if not _number(value) or value % 1:
            return f"must be a whole number, not {kind_of(value)}"
        return "" if value >= lowest else f"must be {lowest} or more, not {scalar_text(value)}"

    return Checked(check, {"type": "integer", "minimum": lowest, "errorMessage": "must be a whole number"})


_ANY_SIZE = f"{SIZE_PATTERN}|{QUANTITY_PATTERN.replace('[+-]?', '', 1)}"
_SIZE_WORDS = "a size such as 512m, 1.5g or 16Gi"

Text = Annotated[str, Checked(_text, TEXT_SCHEMA)]
Filled = Annotated[str, Checked(_filled, FILLED_SCHEMA)]
TextBesideList = Annotated[str, Checked(_text_or_list, TEXT_SCHEMA)]
FilledBesideList = Annotated[str, Checked(_filled_or_list, FILLED_SCHEMA)]
Password = Annotated[str, Checked(_password, FILLED_SCHEMA)]
Plain = Annotated[str, Checked(_filled, FILLED_SCHEMA, expression=False)]
Expression = Annotated[str, Checked(_never, EXPRESSION_SCHEMA)]
Flag = Annotated[bool, Checked(_flag, FLAG_SCHEMA)]
FlagBesideNames = Annotated[bool, Checked(_flag_beside_names, FLAG_SCHEMA)]
PlainFlag = Annotated[bool, Checked(_flag, FLAG_SCHEMA, expression=False)]
Scalar = Annotated[Any, Checked(_scalar, SCALAR_SCHEMA, expression=False)]
ScalarOrNull = Annotated[Any, Checked(_any_or_null, {"type": [*SCALAR_SCHEMA["type"], "null"]}, expression=False)]
Duration = Annotated[Any, _measured(DURATION_PATTERN, "a duration such as 90, 90s, 15m or 2h30m")]
DurationBesideMapping = Annotated[
    Any, _measured(DURATION_PATTERN, "a duration such as 30s, or a mapping with initial, factor and max")
]
Factor = Annotated[Any, Checked(_factor, {"type": "number", "minimum": 1, "maximum": STEPEST})]
Size = Annotated[Any, _measured(_ANY_SIZE, _SIZE_WORDS)]
SwapSize = Annotated[Any, _measured(f"^-1$|{_ANY_SIZE}", f"{_SIZE_WORDS}, or -1", lowest=-1)]
Quantity = Annotated[Any, _measured(QUANTITY_PATTERN.replace("[+-]?", "", 1), "a quantity such as 500m or 2")]
Gpus = Annotated[
    Any, _measured(f"^all$|{QUANTITY_PATTERN.replace('[+-]?', '', 1)}", "a number of GPUs such as 2, or all")
]
PROTECT: dict[Any, str] = {
    "active": "While it is live.",
    "always": "Also when it has ended.",
    False: "Never (default).",
}
Protect = Annotated[Any, Checked(_protect, words_schema(PROTECT))]
