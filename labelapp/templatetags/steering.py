"""Figures and times as the admins' pages write them."""

from typing import Any

from django import template
from django.utils.formats import number_format
from django.utils.translation import gettext as _

register = template.Library()

PERCENT = 100


@register.filter
def duration(seconds: float | None) -> str:
    """``3 min 12 s``; empty for none."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes, left = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": left}
    return _("%(seconds)s s") % {"seconds": left}


@register.filter
def figure(value: Any) -> str:
    """A figure in three or four digits; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return number_format(round(value), use_l10n=True, force_grouping=True)
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    places = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return number_format(round(value, places), decimal_pos=places)


@register.filter
def percent(value: Any) -> str:
    """A fraction as ``71.9%``; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    number = number_format(round(value * PERCENT, 1), decimal_pos=1)
    return _("%(number)s%%") % {"number": number}
