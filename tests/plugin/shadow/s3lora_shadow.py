"""A method under the name of a built-in one, and a function that is no method."""


class Random:
    """Not the method called random."""

    def __init__(self) -> None:
        raise AssertionError("a built-in method was replaced")


def plain(module: object) -> float:
    """Not a method."""
    return 0.0
