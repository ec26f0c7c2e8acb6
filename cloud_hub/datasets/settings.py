"""Settings of datasets: where sources may be read from, and how much is kept."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings

ROOTS_MAX = 32

Root = Annotated[str, Meta(min_length=2, max_length=1000, pattern=r"^/")]


class DatasetSettings(Settings, frozen=True):
    """Limits and choices."""

    # Folders of the hub's own machine from which people may import; none unless named here.
    import_roots: Annotated[tuple[Root, ...], Meta(max_length=ROOTS_MAX)] = ()
    datasets_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    versions_max: Annotated[int, Meta(ge=1, le=10_000)] = 200  # Of one dataset
    bytes_max: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 500 << 30  # Of all packs together
    import_s_max: Annotated[int, Meta(ge=10, le=86_400)] = 3600  # Of one import
    import_memory_bytes_max: Annotated[int, Meta(ge=1 << 30, le=1 << 40)] = 8 << 30
