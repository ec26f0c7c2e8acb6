"""How Home Assistant finds a pipeline by itself: MQTT discovery, one message for each entity. Pure.

1. `<discovery prefix>/<component>/<node>/<object>/config`, retained; an empty one takes the entity
   away. Source: Home Assistant, "MQTT" integration, "Discovery messages", and its schemas.
2. A pipeline is one device of Home Assistant. Every entity has a unique id, which stays the same
   when the pipeline starts anew, and the pipeline's availability.
3. Entities stay where a pipeline stops (they are unavailable then). They go when the pipeline is
   gone for good.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from edge_agent.sinks.mqtt_topics import OFF, OFFLINE, ON, ONLINE, Component, Thing, safe

MAKER = "Isthmus"
COMPONENTS: tuple[Component, ...] = ("sensor", "binary_sensor")


@dataclass(frozen=True, slots=True)
class Announcer:
    """Says what Home Assistant has to know of one pipeline's things."""

    discovery_prefix: str
    base: str  # The pipeline's topic
    device: str
    pipeline: str
    model: str
    agent_version: str

    @property
    def node(self) -> str:
        """Return what the pipeline is called in ids; no other pipeline of any device is."""
        return f"isthmus-{safe(self.device)}-{safe(self.pipeline)}"

    def topic(self, thing: Thing) -> str:
        """Return where the entity of `thing` is announced."""
        prefix = self.discovery_prefix.strip("/")
        return f"{prefix}/{thing.component}/{self.node}/{thing.object_id}/config"

    def topics_of(self, topic: str) -> tuple[str, ...]:
        """Return where a thing may be announced of which no more is known than its topic."""
        return tuple(self.topic(Thing(topic, "", component)) for component in COMPONENTS)

    def payload(self, thing: Thing) -> bytes:
        """Return the announcement of `thing`."""
        return msgspec.json.encode(self._entity(thing))

    def _entity(self, thing: Thing) -> Mapping[str, object]:
        entity: dict[str, object] = {
            "name": thing.title,
            "unique_id": f"{self.node}-{thing.object_id}",
            "state_topic": f"{self.base}/{thing.topic}",
            "availability_topic": f"{self.base}/availability",
            "payload_available": ONLINE,
            "payload_not_available": OFFLINE,
            "qos": 1,
            "device": self._device(),
            "origin": {"name": MAKER, "sw_version": self.agent_version},
        }
        if thing.component == "binary_sensor":
            entity |= {"payload_on": ON, "payload_off": OFF}
        named = {
            "device_class": thing.device_class,
            "state_class": thing.state_class,
            "unit_of_measurement": thing.unit,
            "icon": thing.icon,
        }
        return entity | {key: value for key, value in named.items() if value}

    def _device(self) -> Mapping[str, object]:
        return {
            "identifiers": [self.node],
            "name": f"{self.device} {self.pipeline}",
            "manufacturer": MAKER,
            "model": self.model,
            "sw_version": self.agent_version,
        }
