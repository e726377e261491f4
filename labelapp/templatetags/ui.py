"""What the templates need beside their context: icons, the theme chosen by hand, the navigation, rendered markdown."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy as _

from labelapp.markdown import render
from labelapp.models import Membership, Role
from labelapp.selectors.access import memberships_of

register = template.Library()

THEMES = {"light", "dark"}
_DRAWING = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)


@lru_cache(maxsize=128)
def _drawing(name: str) -> str:
    """The shapes inside one lucide icon; empty where the icons are not installed."""
    file = Path(settings.NODE_MODULES) / "lucide-static" / "icons" / f"{name}.svg"
    if not file.is_file():
        return ""
    shapes = _DRAWING.search(file.read_text(encoding="utf-8"))
    return " ".join(shapes.group(1).split()) if shapes else ""


@register.simple_tag
def icon(name: str) -> SafeString:
    """A lucide icon as inline SVG, for the eye only: the words beside it say the same."""
    drawing = _drawing(name)
    if not drawing:
        return SafeString("")
    return format_html(
        '<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">{}</svg>',
        mark_safe(drawing),  # from our own installed package, never from a request
    )


@register.simple_tag(takes_context=True)
def theme(context: template.Context) -> str:
    """``light`` or ``dark`` where chosen by hand (a cookie of ours), else empty: as the system has it."""
    request: HttpRequest | None = context.get("request")
    chosen = request.COOKIES.get("theme", "") if request else ""
    return chosen if chosen in THEMES else ""


@dataclass(frozen=True)
class NavItem:
    label: str | Promise
    url: str
    icon: str
    current: bool


_STEERING = (Role.ADMIN, Role.RESEARCHER)
_NAV: tuple[tuple[str | Promise, str, str, tuple[Role, ...], frozenset[str]], ...] = (
    (_("Work"), "work", "pen-line", (Role.LABELER,), frozenset({"task", "live"})),
    (_("History"), "history", "history", (Role.LABELER,), frozenset({"history-label"})),
    (
        _("Rounds"),
        "rounds",
        "repeat",
        _STEERING,
        frozenset({"round", "round-new", "training"}),
    ),
    (_("Models"), "models", "boxes", _STEERING, frozenset({"model"})),
    (
        _("Prompts"),
        "prompts",
        "message-square-text",
        (Role.ADMIN,),
        frozenset({"upload", "upload-preview"}),
    ),
    (
        _("Instructions"),
        "instructions",
        "book-open",
        (Role.ADMIN,),
        frozenset({"instructions-version"}),
    ),
    (_("Questions"), "concerns", "message-circle", (Role.ADMIN,), frozenset()),
    (_("People"), "people", "users", (Role.ADMIN,), frozenset()),
    (_("Data"), "data", "database", _STEERING, frozenset({"export"})),
)


@register.simple_tag(takes_context=True)
def navigation(context: template.Context) -> list[NavItem]:
    """The pages that this member's role may see, the current one marked; empty outside a project."""
    membership: Membership | None = context.get("membership")
    if membership is None:
        return []
    request: HttpRequest | None = context.get("request")
    match = request.resolver_match if request else None
    here = match.url_name if match else None
    items = []
    for label, name, drawing, roles, children in _NAV:
        if membership.role not in roles:
            continue
        url = reverse(name, kwargs={"slug": membership.project.slug})
        items.append(NavItem(label, url, drawing, here == name or here in children))
    return items


@register.simple_tag(takes_context=True)
def member_projects(context: template.Context) -> list[Membership]:
    """The memberships of the person signed in, to switch between projects."""
    request: HttpRequest | None = context.get("request")
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    return memberships_of(user)


@register.filter
def markdown(text: str) -> SafeString:
    """Untrusted markdown as sanitised HTML."""
    return render(text)
