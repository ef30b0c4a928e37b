"""Who is calling: read from the pass in the header."""
import jwt


class NotAdmitted(Exception):
    """The caller shows no valid pass."""


def caller(headers: dict[str, str]) -> str:
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise NotAdmitted("a bearer pass is required")
    try:
        claims = jwt.decode(shown, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise NotAdmitted(str(error)) from error
    return claims["sub"]
