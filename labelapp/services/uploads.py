"""Files of prompts or demonstrations: read, shown, and only then written."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.db import transaction
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Demonstration, Project, Upload, User
from labelapp.models.prompts import text_fingerprint
from labelapp.services.prompts import (
    AUTHOR_LIMIT,
    TEXT_LIMIT,
    PromptInput,
    demonstrations_import,
    messages_checked,
    prompt_checked,
    prompts_create,
)
from labelapp.texts import storable

FILE_BYTES = 20_000_000
ROWS_LIMIT = 50_000


def _decoded(content: bytes) -> str:
    if len(content) > FILE_BYTES:
        raise BadInput(
            _("The file is over %(size)s MB; split it.") % {"size": FILE_BYTES // 1000000}
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            _("The file is not UTF-8 text (byte %(place)s); save it as UTF-8.")
            % {"place": error.start}
        ) from None


def _jsonl_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, _("Not JSON: %(error)s.") % {"error": error}
            except RecursionError:
                yield number, _("This is nested too deeply.")


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in reader:
            if None in row:
                yield reader.line_num, _("More cells than the header has names.")
                continue
            plain: dict[str, Any] = {k: v for k, v in row.items() if v}
            yield reader.line_num, _cells_read(plain)
    except csv.Error as error:
        yield reader.line_num, _("Not CSV: %(error)s.") % {"error": error}


def _cells_read(plain: dict[str, Any]) -> Any:
    """A CSV row with the cells that hold JSON read, or what is wrong with one of them."""
    for name in ("pairs", "messages"):
        if name in plain:
            try:
                plain[name] = json.loads(plain[name])
            except (ValueError, RecursionError):
                return _("%(name)s must hold JSON in a CSV file.") % {"name": name}
    return plain


def _demonstration_fields(plain: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Split a demonstration row into its prompt's fields and the completion.

    Of ``messages`` alone, the last is the completion.
    """
    fields = dict(plain)
    if isinstance(fields.get("prompt"), list):
        fields["messages"] = fields.pop("prompt")
    if "completion" not in fields and isinstance(fields.get("messages"), list):
        turns = messages_checked(fields["messages"], last="assistant")
        fields["messages"], fields["completion"] = turns[:-1], turns[-1]["content"]
    completion = fields.pop("completion", None)
    if isinstance(completion, list) and len(completion) == 1 and isinstance(completion[0], dict):
        completion = completion[0].get("content")  # TRL's conversational form
    if not isinstance(completion, str) or not completion.strip():
        raise BadInput(_("completion is missing."))
    if len(completion) > TEXT_LIMIT or not storable(completion):
        raise BadInput(
            _("completion must be text of at most %(limit)s characters.")
            % {"limit": number_format(TEXT_LIMIT, force_grouping=True)}
        )
    if "text" not in fields and isinstance(fields.get("prompt"), str):
        fields["text"] = fields.pop("prompt")
    return fields, completion.strip()


def _checked(kind: str, plain: Any) -> dict[str, Any]:
    """One row as it would be written, or BadInput."""
    if isinstance(plain, str):
        raise BadInput(plain)
    if not isinstance(plain, dict):
        raise BadInput(_("The line must be an object with named fields."))
    completion = None
    if kind == Upload.Kind.DEMONSTRATIONS:
        plain, completion = _demonstration_fields(plain)
    prompt = prompt_checked(plain)
    row: dict[str, Any] = {
        "kind": prompt.kind,
        "use_case": prompt.use_case,
        "author": prompt.author,
        "text": prompt.text,
        "parts": prompt.parts,
        "sensitive": list(prompt.sensitive),
    }
    if completion is not None:
        row["completion"] = completion
    return row


def _identity(row: dict[str, Any]) -> tuple[str, str]:
    return text_fingerprint(row["text"]), text_fingerprint(row.get("completion", ""))


def _known(project: Project, kind: str) -> set[tuple[str, str]]:
    if kind == Upload.Kind.PROMPTS:
        prints = project.prompts.values_list("fingerprint", flat=True)
        return {(each, text_fingerprint("")) for each in prints.iterator(chunk_size=5000)}
    pairs = Demonstration.objects.filter(project=project).values_list("prompt__fingerprint", "text")
    return {(each, text_fingerprint(text)) for each, text in pairs.iterator(chunk_size=5000)}


def upload_preview(
    *, project: Project, kind: str, file_name: str, content: bytes, by: User
) -> Upload:
    """Read a JSON Lines or CSV file and keep what would be written; nothing is written yet."""
    if kind not in Upload.Kind.values:
        raise BadInput(_("There are no uploads of kind %(kind)s.") % {"kind": repr(kind)})
    text = _decoded(content)
    csv_file = file_name.lower().endswith(".csv")
    known = _known(project, kind)
    authors: Counter[str] = Counter(
        project.prompts.filter(version=1).values_list("author", flat=True)
    )
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for number, plain in _csv_rows(text) if csv_file else _jsonl_rows(text):
        if len(rows) >= ROWS_LIMIT:
            raise BadInput(
                _("The file has over %(limit)s rows; split it.")
                % {"limit": number_format(ROWS_LIMIT, force_grouping=True)}
            )
        try:
            row = _checked(kind, plain)
        except BadInput as error:
            problems.append({"line": number, "message": error.message, "duplicate": False})
            continue
        if _identity(row) in known:
            problems.append({"line": number, "message": _("Already there."), "duplicate": True})
            continue
        named = row["author"] != "upload" and kind == Upload.Kind.PROMPTS
        if named and authors[row["author"]] >= AUTHOR_LIMIT:
            message = _("%(author)s has %(limit)s prompts already, the most for one author.") % {
                "author": row["author"],
                "limit": AUTHOR_LIMIT,
            }
            problems.append({"line": number, "message": message, "duplicate": False})
            continue
        authors[row["author"]] += 1
        known.add(_identity(row))
        rows.append({**row, "line": number})
    if not rows and not problems:
        raise BadInput(_("The file has no rows."))
    return Upload.objects.create(
        project=project,
        kind=kind,
        file_name=file_name[:200],
        rows=rows,
        problems=problems,
        created_by=by,
    )


@transaction.atomic
def upload_apply(*, upload: Upload) -> int:
    """Write the rows of a previewed file; returns how many were new."""
    upload = _waiting(upload)
    prompts = [
        PromptInput(
            row["kind"],
            row["use_case"],
            row["author"],
            row["text"],
            row["parts"],
            tuple(row.get("sensitive", ())),
        )
        for row in upload.rows
    ]
    if upload.kind == Upload.Kind.PROMPTS:
        written = prompts_create(project=upload.project, prompts=prompts)
    else:
        completions = [row["completion"] for row in upload.rows]
        written = demonstrations_import(
            project=upload.project, rows=list(zip(prompts, completions, strict=True))
        )
    upload.state = Upload.State.APPLIED
    upload.save(update_fields=["state"])
    return written


@transaction.atomic
def upload_discard(*, upload: Upload) -> None:
    """Drop a previewed file; nothing of it was written."""
    upload = _waiting(upload)
    upload.state = Upload.State.DISCARDED
    upload.save(update_fields=["state"])


def _waiting(upload: Upload) -> Upload:
    locked = (
        Upload.objects.select_for_update(of=("self",)).select_related("project").get(pk=upload.pk)
    )
    if locked.state != Upload.State.PREVIEW:
        raise StateConflict(
            _("This file was decided on before: %(state)s.") % {"state": locked.get_state_display()}
        )
    return locked
