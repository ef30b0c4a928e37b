"""Write release notes as one static page."""
import json
import sys

import jinja2

PAGE = """<!doctype html>
<title>{{ title }}</title>
{% for note in notes %}<section><h2>{{ note.version }}</h2><p>{{ note.text }}</p></section>{% endfor %}
"""


def render(title: str, notes: list[dict]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(title=title, notes=notes)


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        print(render("Release notes", json.load(source)))
