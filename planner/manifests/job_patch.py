"""Customizations of a Job manifest: RFC 6902 operations, each failure with its index, operation, path and place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowplan.planner.manifests.job_draft import Draft
from flowplan.schemas.documents import Document
from flowplan.schemas.fields import kind_of
from flowplan.schemas.pointers import copied, unescape
from flowplan.schemas.runs import Json, Origin, canonical
from flowplan.schemas.sources import Diagnostic, did_you_mean, dotted

MOST_OPERATIONS = 2_000
MOST_VALUES, DEEPEST = 50_000, 100
_OPERATIONS = {
    "add": ("value",),
    "remove": (),
    "replace": ("value",),
    "move": ("from",),
    "copy": ("from",),
    "test": ("value",),
}


def customize(draft: Draft) -> None:
    """Apply ``kubernetes.customizations`` to the draft; every operation that fails is a fault.

    Operations after a failed one are still tried, so that one message tells everything; the manifest is of no use then.
    """
    wanted = draft.block.get("customizations")
    if not wanted:
        return
    draft.custom = True
    operations, document = _operations(draft, wanted)
    if not isinstance(operations, list):
        message = f"customizations must be a list of JSON Patch operations, not {kind_of(operations)}"
        draft.fault(message, "kubernetes", "customizations", hint="- {op: add, path: /spec/..., value: ...}")
        return
    if len(operations) > MOST_OPERATIONS:
        message = f"has {len(operations):,} operations, more than {MOST_OPERATIONS:,}"
        draft.fault(message, "kubernetes", "customizations", hint="write a manifest")
        return
    for index, operation in enumerate(operations):
        origin = _origin(draft, wanted, document, index)
        problem = _malformed(operation) or _apply(draft, operation, origin)
        if problem:
            draft.faults.append(_fault(draft, index, operation, origin, problem))
    if not draft.faults and (problem := _too_big(draft.job)):
        draft.fault(problem, "kubernetes", "customizations")


def _operations(draft: Draft, wanted: Any) -> tuple[Any, Document | None]:
    if not isinstance(wanted, str):
        return wanted, None
    content = draft.run.files.get(wanted)
    return (content.value, content) if isinstance(content, Document) else (content, None)


def _origin(draft: Draft, wanted: Any, document: Document | None, index: int) -> Origin:
    """Return the origin of an operation: ``customizations[0] (spec.yaml:40)``."""
    if document is not None:
        place = document.sources.value((index,))
        where = Origin(f"{wanted}:{place.line}", wanted, place.line, place.column)
    elif isinstance(wanted, str):
        where = Origin(wanted, wanted)
    else:
        where = draft.run.origin("kubernetes", "customizations", index)
    return Origin(f"customizations[{index}] ({where.text})", where.file, where.line, where.column)


def _fault(draft: Draft, index: int, operation: Any, origin: Origin, problem: str) -> Diagnostic:
    subject = dotted(("runs", draft.run.group, "kubernetes", "customizations", index))
    told = ""
    if isinstance(operation, Mapping):
        told = " ".join(str(operation[key]) for key in ("op", "path") if isinstance(operation.get(key), str))
    return Diagnostic(f"{told}: {problem}" if told else problem, origin.position, subject)


def _malformed(operation: Any) -> str:
    """Return what keeps it from being an operation of RFC 6902, or ""."""
    if not isinstance(operation, Mapping):
        return "an operation must be a mapping with op and path"
    name = operation.get("op")
    if not isinstance(name, str) or name not in _OPERATIONS:
        if name is None:
            return "op is missing; it must be one of add, remove, replace, move, copy, test"
        hint = did_you_mean(str(name), _OPERATIONS)
        return f'"{name}" is not an operation of JSON Patch' + (f"; {hint}" if hint else "")
    for key in ("path", "from") if "from" in _OPERATIONS[name] else ("path",):
        value = operation.get(key)
        if not isinstance(value, str):
            return f"{key} is missing" if value is None else f"{key} must be a string"
        if value and not value.startswith("/"):
            return f'{key} must start with "/"'
    return "value is missing" if "value" in _OPERATIONS[name] and "value" not in operation else ""


def _apply(draft: Draft, operation: Mapping[str, Any], origin: Origin) -> str:
    """Carry out one operation in place; return why it could not be done, or ""."""
    import jsonpatch
    import jsonpointer

    path = _resolved(draft.job, operation["path"])
    if operation["op"] == "copy" and (problem := _too_big(draft.job)):  # each copy may double it
        return problem
    try:
        patched = jsonpatch.JsonPatch([copied(operation)]).apply(draft.job, in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        if _present(draft.job, operation["path"]) != operation["path"]:
            return _in_words(draft.job, operation, str(error))
        return f"the test failed: the value is not {canonical(operation['value'])}"
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        return _in_words(draft.job, operation, str(error))
    except (TypeError, KeyError, IndexError, AttributeError):
        return "there is no such place in the manifest"
    if not isinstance(patched, dict):
        return "the whole manifest cannot become something else"
    draft.job = patched
    _remember(draft, operation, path, origin)
    return ""


def _in_words(job: Json, operation: Mapping[str, Any], error: str) -> str:
    """Return the library's sentence, with the deepest part of the path that is there."""
    wanted = operation.get("from") if operation["op"] in ("move", "copy") else operation["path"]
    present = _present(job, str(wanted))
    if present == str(wanted) and present == operation["path"]:
        return error
    return f"{wanted} is not in the manifest; {present or 'the top'} is the nearest that is"


def _too_big(value: Json) -> str:
    """Return how a manifest is too big, or ""."""
    level, count, depth = [value], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > MOST_VALUES or depth > DEEPEST:
            return f"the manifest has more than {MOST_VALUES:,} values, or more than {DEEPEST} levels"
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [one for members in inner for one in members]
    return ""


def _present(value: Json, path: str) -> str:
    found = ""
    for part in path.split("/")[1:]:
        if isinstance(value, dict) and unescape(part) in value:
            value = value[unescape(part)]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            break
        found += f"/{part}"
    return found


def _resolved(job: Json, path: str) -> str:
    """Return the path with ``-`` as the index that the new item gets."""
    if not path.endswith("/-"):
        return path
    parent = path[:-2]
    for part in parent.split("/")[1:]:
        if isinstance(job, dict):
            job = job.get(unescape(part))
        elif isinstance(job, list) and part.isdigit() and int(part) < len(job):
            job = job[int(part)]
    return f"{parent}/{len(job) if isinstance(job, list) else 0}"


def _remember(draft: Draft, operation: Mapping[str, Any], path: str, origin: Origin) -> None:
    """Note the origin of what changed; later items of a list that an operation shifts fall back to the list's origin."""
    if operation["op"] == "test":
        return
    touched = [path] if operation["op"] not in ("move",) else [path, str(operation["from"])]
    for place in touched:
        parent, _, last = ("/Job" + place).rpartition("/")
        shifted = last.isdigit() and operation["op"] != "replace"
        for known in [p for p in draft.origins if p.startswith(parent + "/")]:
            head = known[len(parent) + 1 :].partition("/")[0]
            if head == last or (shifted and head.isdigit() and int(head) >= int(last)):
                del draft.origins[known]
    if operation["op"] != "remove":
        draft.origins["/Job" + path] = origin
