"""Template tags that show where a search word was found."""
import re

from django import template
from django.utils.html import escape
from django.utils.safestring import mark_safe

register = template.Library()


@register.simple_tag
def heading(word):
    return mark_safe("<h2>Results for " + word + "</h2>")


@register.filter
def length(text, word):
    return len(re.findall(re.escape(word), escape(text)))
