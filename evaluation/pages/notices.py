"""Sentences that every page of a case must say."""

RESEARCH = (
    "For research only. Not a medical device: no decision about a patient may rest on this page."
)
BURNT_IN = (
    "Names and dates that are burnt into the pixels cannot be removed here: "
    "look at the picture before you share it."
)
