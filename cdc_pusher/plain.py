"""What others have written, for a terminal or a log: nothing in it moves a cursor, hides or reorders what stands there. Pure."""

import json


def plain(text: str) -> str:
    r"""Printable characters as they are, and any other as Python writes it; so it is one line.

    >>> print(plain("Zürich\x1b[31m\n\N{RIGHT-TO-LEFT OVERRIDE}"))
    Zürich\x1b[31m\n\u202e
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_json(text: str) -> str:
    r"""JSON without line breaks that says the same.

    >>> print(plain_json('"Zürich\x9b31m"'))
    "Zürich\u009b31m"
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
