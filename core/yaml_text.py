"""YAML of recipes, aliases and model cards, which may come from strangers."""

import yaml

MOST_BRACKETS = 1000  # the time of the parser grows with the square of their depth


def parse_yaml(text: str) -> object:
    """The numbers, texts, lists and dicts of a YAML text. ValueError says what is wrong, without naming the file."""
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"more than {MOST_BRACKETS} brackets")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
