"""Every address, page or API, as every role, as a member of another project, and as nobody.

The list below is held against the resolver: a new address without a line here fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from labelapp.models import LivePrompt, Round, User
from tests.factories import client_id, make_task
from tests.labelapp.steering_cast import Cast, make_cast, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

ROLES = ("labeler", "researcher", "admin")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
LABELER, WATCHERS, ADMIN = ("labeler",), ("researcher", "admin"), ("admin",)
EVERYONE = "everyone"
"""Those who are not signed in, too."""
SIGNED_IN = "signed in"
"""People of any project; what they see is their own."""


@dataclass(frozen=True)
class Door:
    """Who may ask an address, and how."""

    who: tuple[str, ...] | str
    methods: tuple[str, ...] = ("GET",)

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(method for method in self.methods if method != "GET")

    def someone(self, cast: Cast) -> User | None:
        """One who may; nobody where even that is enough."""
        if self.who == EVERYONE:
            return None
        return cast.people[self.who[0] if isinstance(self.who, tuple) else "admin"]


DJANGOS_OWN = {"sign-in": ("PUT",), "password-reset": ("PUT", "PATCH", "DELETE")}
"""Django's own views: PUT is taken for POST, and a void link is told so whatever the method."""
POST, BOTH = ("POST",), ("GET", "POST")
DOORS = {
    "healthz": Door(EVERYONE),
    "readyz": Door(EVERYONE),
    "sign-in": Door(EVERYONE, BOTH),
    "sign-out": Door(EVERYONE, POST),
    "language": Door(EVERYONE, POST),
    "invite": Door(EVERYONE, BOTH),
    "password-reset": Door(EVERYONE, BOTH),
    "home": Door(SIGNED_IN),
    "account": Door(SIGNED_IN, BOTH),
    "account-avoids": Door(SIGNED_IN, POST),
    "account-keys": Door(SIGNED_IN, POST),
    "password-change": Door(SIGNED_IN, BOTH),
    "project": Door(ROLES),
    "work": Door(LABELER),
    "work-next": Door(LABELER, POST),
    "live": Door(LABELER),
    "live-rank": Door(LABELER, POST),
    "task": Door(LABELER),
    "work-undo": Door(LABELER, POST),
    "correct": Door(LABELER, POST),
    "correct-drop": Door(LABELER, POST),
    "history": Door(LABELER),
    "history-label": Door(LABELER),
    "thread-seen": Door(LABELER, POST),
    "concerns": Door(ADMIN),
    "thread-answer": Door(ADMIN, POST),
    "flag-done": Door(ADMIN, POST),
    "task-difference": Door(LABELER),
    "rounds": Door(WATCHERS),
    "round-new": Door(ADMIN, BOTH),
    "round-new-counts": Door(ADMIN),
    "round": Door(WATCHERS),
    "round-live": Door(WATCHERS),
    "round-labels": Door(WATCHERS),
    "round-close": Door(ADMIN, POST),
    "round-answers": Door(ADMIN, POST),
    "round-scores": Door(ADMIN, POST),
    "training-start": Door(ADMIN, POST),
    "training": Door(WATCHERS),
    "training-live": Door(WATCHERS),
    "training-stop": Door(ADMIN, POST),
    "training-retry": Door(ADMIN, POST),
    "models": Door(WATCHERS),
    "model": Door(WATCHERS),
    "model-promote": Door(ADMIN, POST),
    "model-refuse": Door(ADMIN, POST),
    "model-rollback": Door(ADMIN, POST),
    "prompts": Door(ADMIN),
    "prompt-sensitive": Door(ADMIN, POST),
    "upload": Door(ADMIN, BOTH),
    "upload-preview": Door(ADMIN),
    "upload-apply": Door(ADMIN, POST),
    "upload-discard": Door(ADMIN, POST),
    "people": Door(ADMIN),
    "person-invite": Door(ADMIN, POST),
    "person-role": Door(ADMIN, POST),
    "person-active": Door(ADMIN, POST),
    "person-reset": Door(ADMIN, POST),
    "instructions": Door(ADMIN, BOTH),
    "instructions-version": Door(ADMIN),
    "data": Door(WATCHERS),
    "snapshot-new": Door(WATCHERS, POST),
    "export": Door(WATCHERS),
    "api-next": Door(LABELER, POST),
    "api-assignment": Door(LABELER),
    "api-draft": Door(LABELER, ("PUT",)),
    "api-heartbeat": Door(LABELER, POST),
    "api-submit": Door(LABELER, POST),
    "api-preview": Door(LABELER, POST),
    "api-skip": Door(LABELER, POST),
    "api-undo": Door(LABELER, POST),
    "api-versions": Door(LABELER),
    "api-correction": Door(LABELER, ("POST", "DELETE")),
    "api-concerns": Door(LABELER, BOTH),
    "api-flag": Door(LABELER, POST),
    "api-note": Door(LABELER, POST),
    "api-live": Door(LABELER, POST),
    "api-live-draft": Door(LABELER, ("PUT",)),
    "api-run": Door(WATCHERS),
    "api-run-series": Door(WATCHERS),
}


def patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from patterns(each)
        else:
            yield each


ALL = list(patterns(get_resolver()))


def address(name: str, cast: Cast) -> str:
    """The address of one of the cast's own rows."""
    known = {
        "slug": cast.project.slug,
        "number": 1,
        "run_id": cast.run.pk,
        "assignment_id": cast.assignment.pk,
        "token": "no-such-token",
        "uidb64": "MQ",
        "snapshot": cast.snapshot.name,
        "form": "native",
        "pk": {
            "training": cast.training.pk,
            "model": cast.version.pk,
            "upload": cast.upload.pk,
            "person": cast.membership("labeler").pk,
            "prompt": cast.project.prompts.earliest("pk").pk,
            "thread": cast.project.threads.get().pk,
            "flag": cast.project.flags.get().pk,
            "live": cast.project.live_prompts.values_list("pk", flat=True).first(),
        }.get(name.split("-")[0]),
    }
    (pattern,) = [each for each in ALL if each.name == name]
    return reverse(name, kwargs={key: known[key] for key in pattern.pattern.converters})


def ask(client: Client, method: str, path: str, **options: object) -> int:
    body = {} if method == "GET" or not path.startswith("/api/") else {"data": "{}"}
    kind = {"content_type": "application/json"} if body else {}
    answer = getattr(client, method.lower())(path, **body, **kind, **options)
    return int(answer.status_code)


def test_every_address_has_a_line_here() -> None:
    names = [pattern.name for pattern in ALL]
    assert set(names) == set(DOORS), "Say in DOORS who may ask the new address."
    assert len(names) == len(set(names))


@pytest.fixture
def cast(_settings_for_tests: None) -> Cast:
    cache.clear()
    made = make_cast()
    Round.objects.update(live_prompting=True)
    task = make_task(made.round, "ranking")
    LivePrompt.objects.create(
        project=made.project,
        round=made.round,
        labeler=made.people["labeler"],
        prompt=task.prompt,
        task=task,
        client_id=client_id(),
    )
    return made


def expected(door: Door, actor: str, path: str) -> Callable[[int], bool]:
    """Whether a status is right for this actor: 'outsider' is admin of another project."""
    welcome = (
        door.who == EVERYONE or (door.who == SIGNED_IN and actor != "nobody") or actor in door.who
    )
    if welcome:
        return lambda status: (
            status not in (401, 403, 404, 405) and (status < 500 or path == "/readyz")
        )
    if actor == "nobody":
        return lambda status: status == (403 if path.startswith("/api/") else 302)
    return lambda status: status == (404 if actor == "outsider" else 403)


@pytest.mark.slow
def test_only_those_meant_get_in(cast: Cast) -> None:
    outsider = make_cast("orchard").people["admin"]
    actors = {**cast.people, "outsider": outsider, "nobody": None}
    wrong = []
    for name, door in DOORS.items():
        path = address(name, cast)
        for actor, user in actors.items():
            for method in door.methods:
                with transaction.atomic():
                    status = ask(signed_in(user), method, path)
                    transaction.set_rollback(True)
                if not expected(door, actor, path)(status):
                    wrong.append(f"{method} {path} as {actor}: {status}")
    assert not wrong


@pytest.mark.slow
def test_other_methods_are_refused(cast: Cast) -> None:
    wrong = []
    for name, door in DOORS.items():
        path = address(name, cast)
        client = signed_in(door.someone(cast))
        for method in set(METHODS) - set(door.methods):
            if method in DJANGOS_OWN.get(name, ()):
                continue
            with transaction.atomic():
                status = ask(client, method, path)
                transaction.set_rollback(True)
            if status != 405:
                wrong.append(f"{method} {path}: {status}")
    assert not wrong


@pytest.mark.slow
def test_nothing_changes_without_the_csrf_token(cast: Cast) -> None:
    token = "a" * 32
    wrong = []
    for name, door in DOORS.items():
        path = address(name, cast)
        for method in door.changes:
            with transaction.atomic():
                client = signed_in(door.someone(cast), enforce_csrf_checks=True)
                without = ask(client, method, path)
                client.cookies[settings.CSRF_COOKIE_NAME] = token
                with_it = ask(client, method, path, headers={"X-CSRFToken": token})
                transaction.set_rollback(True)
            if without != 403 or with_it == 403:
                wrong.append(f"{method} {path}: {without} without, {with_it} with it")
    assert not wrong


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("round", "number"),
        ("training", "pk"),
        ("model", "pk"),
        ("upload-preview", "pk"),
        ("export", "snapshot"),
        ("api-run", "run_id"),
    ],
)
def test_rows_of_another_project_are_not_found(name: str, field: str, cast: Cast) -> None:
    other = make_cast("orchard")
    other.round.number = 7
    other.round.save()
    theirs = {
        "number": other.round.number,
        "run_id": other.run.pk,
        "snapshot": other.snapshot.name,
        "pk": {
            "training": other.training.pk,
            "model": other.version.pk,
            "upload": other.upload.pk,
        }.get(name.split("-")[0]),
    }
    kwargs: dict[str, object] = {"slug": cast.project.slug, field: theirs[field]}
    if name == "export":
        kwargs["form"] = "native"
    assert ask(signed_in(cast.people["admin"]), "GET", reverse(name, kwargs=kwargs)) == 404


@pytest.mark.parametrize("name", ["person-role", "person-active", "person-reset"])
def test_an_admin_cannot_touch_people_of_another_project(name: str, cast: Cast) -> None:
    other = make_cast("orchard").membership("labeler")
    path = reverse(name, args=[cast.project.slug, other.pk])
    answer = signed_in(cast.people["admin"]).post(path, {"role": "admin", "active": "no"})
    assert answer.status_code == 404
    other.refresh_from_db()
    assert other.role == "labeler"
    assert other.user.is_active


def test_the_navigation_names_only_what_the_role_may_see(cast: Cast) -> None:
    pages = {"rounds", "models", "prompts", "people", "data", "instructions", "work"}
    seen = {
        "labeler": {"work"},
        "researcher": {"rounds", "models", "data"},
        "admin": pages - {"work"},
    }
    for role, expected in seen.items():
        start = reverse("project", args=[cast.project.slug])
        page = signed_in(cast.people[role]).get(start, follow=True).content.decode()
        shown = {n for n in pages if f'href="{reverse(n, args=[cast.project.slug])}"' in page}
        assert shown == expected, role
