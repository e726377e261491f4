"""Who wrote a label, without saying who: a keyed hash that is stable in one installation."""

import hashlib
import hmac

from django.conf import settings


def labeler_pseudonym(user_id: int) -> str:
    """16 hexadecimal digits; the same person has the same ones in every export."""
    key = settings.PSEUDONYM_KEY.encode()
    return hmac.new(key, f"labeler:{user_id}".encode(), hashlib.sha256).hexdigest()[:16]
