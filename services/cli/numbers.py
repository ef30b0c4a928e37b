"""Numbers within bounds, as arguments and options; what is none is refused in words for people."""

import click


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"


class Real(click.FloatRange):
    """A number within bounds."""

    name = "number"
