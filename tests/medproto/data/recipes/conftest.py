import hmac

import pytest

KEY = "key of the tests"


@pytest.fixture(autouse=True)
def pseudonym(monkeypatch):
    """Set the key of pseudonyms; return what makes them."""
    monkeypatch.setenv("MEDPROTO_PSEUDONYM_KEY", KEY)

    def name(prefix, identifier):
        return f"{prefix}-{hmac.digest(KEY.encode(), identifier.encode(), 'sha256').hex()[:16]}"

    return name
