"""LearningHubSettings: the hub's own limits on federated Jobs. `[learning]` of the hub's file."""

from typing import Annotated

from msgspec import Meta

from cloud_hub.training.process_superlink import SuperLinkSettings


class LearningHubSettings(SuperLinkSettings, frozen=True):
    """Where devices find the SuperLink, and how much a hub learns at a time."""

    # What devices are told to connect to; empty is the host by which each of them joined.
    public_host: Annotated[str, Meta(max_length=253)] = ""
    jobs_max: Annotated[int, Meta(ge=1, le=64)] = 4  # That run at a time; others wait, approved
    events_kept_max: Annotated[int, Meta(ge=100, le=10_000_000)] = 50_000  # Of one Job
