"""LiveSettings: the local live view, as the device's owner allows it."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings


class LiveSettings(Settings, frozen=True):
    """The local live view; without it there is none."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8088
    token_file: str = ""  # Empty: one is made, beside the identity
    fps_max: Annotated[float, Meta(ge=0.1, le=30.0)] = 5.0
    viewers_max: Annotated[int, Meta(ge=1, le=64)] = 4
    side_max: Annotated[int, Meta(ge=64, le=4096)] = 1280  # Pixels of the longer side
    quality: Annotated[int, Meta(ge=1, le=100)] = 75
