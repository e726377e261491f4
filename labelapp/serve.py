"""`python -m labelapp.serve`: becomes the trainer's server of live answers, set up from our settings."""

import os
import sys
from typing import NoReturn
from urllib.parse import urlsplit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labelapp.settings")

from django.conf import settings  # noqa: E402

from labelapp.trainer_gateway import NOT_FOR_CHILDREN, serve_write  # noqa: E402


def main() -> NoReturn:
    """Ends at once where there is no address to serve at."""
    if not settings.LABELAPP_SERVE_URL:
        sys.exit("labelapp.serve: set LABELAPP_SERVE_URL, as http://127.0.0.1:8001.")
    port = urlsplit(settings.LABELAPP_SERVE_URL).port or 80
    command = serve_write(settings.LABELAPP_BIND, port)
    environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_CHILDREN}
    environment["SERVE_TOKEN"] = settings.LABELAPP_SERVE_TOKEN
    os.chdir(settings.BASE_DIR)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
