"""The browser libraries: of each npm package in node_modules/, only the files that pages load."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import BaseFinder
from django.core.checks import CheckMessage
from django.core.checks import Error as CheckError
from django.core.files.storage import FileSystemStorage, Storage

_SERIF = "@fontsource-variable/source-serif-4/files/source-serif-4"
FILES = {
    "vendor/source-serif-4/latin.woff2": f"{_SERIF}-latin-wght-normal.woff2",
    "vendor/source-serif-4/latin-italic.woff2": f"{_SERIF}-latin-wght-italic.woff2",
    "vendor/source-serif-4/latin-ext.woff2": f"{_SERIF}-latin-ext-wght-normal.woff2",
    "vendor/source-serif-4/latin-ext-italic.woff2": f"{_SERIF}-latin-ext-wght-italic.woff2",
    "vendor/uplot/uPlot.iife.min.js": "uplot/dist/uPlot.iife.min.js",
    "vendor/uplot/uPlot.min.css": "uplot/dist/uPlot.min.css",
    "vendor/sortablejs/Sortable.min.js": "sortablejs/Sortable.min.js",
}
"""Static name -> place in node_modules/. htmx comes with django-htmx: `django_htmx/htmx-2.min.js`."""


class VendorFinder(BaseFinder):
    """Finds the files above, for `{% static %}`, collectstatic and the development server."""

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """An error for each file that `make install` should have put there."""
        return [
            CheckError(
                f"{target} is missing.",
                hint="Run `make install`: it fetches the browser libraries.",
                id="labelapp.E020",
            )
            for target in FILES.values()
            if not (settings.NODE_MODULES / target).is_file()
        ]

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        """The absolute path of a static name, or a list of it with `find_all`."""
        target = FILES.get(path)
        found = settings.NODE_MODULES / target if target else None
        if found is None or not found.is_file():
            return []
        return [str(found)] if find_all else str(found)

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterable[tuple[str, Storage]]:
        """Each static name with a storage that opens it."""
        for path in FILES:
            yield path, _VendorStorage(location=settings.NODE_MODULES)


class _VendorStorage(FileSystemStorage):
    """Opens files by their static name."""

    def path(self, name: str) -> str:
        return super().path(FILES[name])
