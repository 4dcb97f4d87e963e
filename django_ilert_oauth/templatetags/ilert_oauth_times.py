from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.translation import gettext, ngettext_lazy

register = template.Library()

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: In seconds, in descending order.
UNITS = [
    (365 * DAY, ngettext_lazy("%(count)d year ago", "%(count)d years ago", "count")),
    (30 * DAY, ngettext_lazy("%(count)d month ago", "%(count)d months ago", "count")),
    (DAY, ngettext_lazy("%(count)d day ago", "%(count)d days ago", "count")),
    (HOUR, ngettext_lazy("%(count)d hour ago", "%(count)d hours ago", "count")),
    (MINUTE, ngettext_lazy("%(count)d minute ago", "%(count)d minutes ago", "count")),
]


@register.filter
def ago(moment: datetime) -> str:
    """In one unit, rounded down; what lies ahead by another clock is now."""
    seconds = (timezone.now() - moment).total_seconds()
    for unit, words in UNITS:
        if count := int(seconds / unit) if seconds > 0 else 0:
            return words % {"count": count}
    return gettext("just now")
