#!/usr/bin/env python
"""Django's command line. Starts the embedded servers where no DATABASE_URL and REDIS_URL are set."""

import os
import sys

WITHOUT_SERVERS = {
    "help",
    "--help",
    "-h",
    "version",
    "--version",
    "makemessages",
    "compilemessages",
}


def main() -> None:
    """Run one command; see `python manage.py help`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labelapp.settings")
    from django.core.management import execute_from_command_line

    from labelapp import embedded

    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    try:
        if command not in WITHOUT_SERVERS and "--help" not in sys.argv:
            embedded.use_where_needed()
        execute_from_command_line(sys.argv)
    except embedded.EmbeddedError as error:
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
