"""Who may send and read what on the broker, as pure rules; every broker adapter applies these.

1. The hub may do everything.
2. A device may publish under its own `up/` and read under its own `down/`, and nothing else.
3. A device subscribes to full topic names: a wildcard is refused even inside its own prefix.

deploy/mosquitto/acl says the same to mosquitto (where rule 3 is "wildcards outside its own `down/`
never match anything").
"""

from shared.ids import HUB_ID
from shared.wire.topics import ROOT, TOPIC_CHARS_MAX, TOPICS, Direction

WILDCARDS = ("+", "#")
_PRESENCE = next(topic for topic in TOPICS if topic.name == "presence")


def may_publish(client: str, path: str) -> bool:
    """Whether `client` may send a message on topic `path`."""
    return _is_plain(path) and (client == HUB_ID or path.startswith(_prefix(client, Direction.UP)))


def may_subscribe(client: str, pattern: str) -> bool:
    """Whether `client` may subscribe to the topic filter `pattern`."""
    if client == HUB_ID:
        return len(pattern) <= TOPIC_CHARS_MAX
    return may_receive(client, pattern)


def may_receive(client: str, path: str) -> bool:
    """Whether a message on topic `path` may be given to `client`."""
    return _is_plain(path) and (
        client == HUB_ID or path.startswith(_prefix(client, Direction.DOWN))
    )


def may_leave_will(client: str, path: str) -> bool:
    """Whether `path` may be the topic of `client`'s last will: its own presence, nothing else."""
    return path == f"{_prefix(client, Direction.UP)}{_PRESENCE.name}"


def matches(pattern: str, path: str) -> bool:
    """Whether the topic filter `pattern` takes in topic `path` (MQTT 3.1.1, section 4.7)."""
    wanted, given = pattern.split("/"), path.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        w in ("+", g) for w, g in zip(wanted, given, strict=True)
    )


def _prefix(client: str, direction: Direction) -> str:
    return f"{ROOT}/{client}/{direction}/"


def _is_plain(path: str) -> bool:
    return (
        0 < len(path) <= TOPIC_CHARS_MAX
        and not path.startswith("$")
        and not any(wildcard in path for wildcard in WILDCARDS)
    )
