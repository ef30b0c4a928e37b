"""Preview of a mail whose template a customer wrote."""
from jinja2 import Environment, TemplateError

SAMPLE = {"first_name": "Ada", "shop": "The shop", "total": "12.50"}
LIMIT = 20_000


def preview(written: str) -> tuple[str, str]:
    if len(written) > LIMIT:
        return "", f"a template has at most {LIMIT} characters"
    environment = Environment()
    try:
        return environment.from_string(written).render(**SAMPLE), ""
    except TemplateError as error:
        return "", str(error)
