"""Template tags that show where a search word was found."""
import re

from django import template
from django.utils.html import escape, format_html

register = template.Library()


@register.simple_tag
def heading(word):
    return format_html("<h2>Results for {}</h2>", word)


@register.filter
def length(text, word):
    return len(re.findall(re.escape(word), escape(text)))
