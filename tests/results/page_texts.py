"""What the columns of a table show."""

from __future__ import annotations


def texts(table, name):
    """What a column of a table shows."""
    place = [heading.name for heading in table.header].index(name)
    return [row[place].text for row in table.rows]
