"""An explanation's body: sentences in parts, with tables where numbers belong side by side."""

from pydantic import Field

from cloud_hub.api.bodies import AnswerBody


class PartOut(AnswerBody):
    """One part of an explanation."""

    heading: str
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = Field(default=(), description='A name that ends in "#" is a number')
    rows: tuple[tuple[str, ...], ...] = ()


class WhyOut(AnswerBody):
    """Sentences that explain, what is now first; `parts` has them in order, with their tables."""

    subject: str
    sentences: tuple[str, ...]
    parts: tuple[PartOut, ...]
