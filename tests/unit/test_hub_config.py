"""The hub's configuration: addresses, brokers, names, and what is refused."""

import msgspec
import pytest

from cloud_hub.config import HubConfig, ListenSettings, parse_broker, parse_listen
from shared.errors import ContractError
from shared.settings import parse_toml


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:0", "::1", 0),
        ("::1:80", "::1", 80),
        ("hub.example:65535", "hub.example", 65535),
    ],
)
def test_an_address(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == ListenSettings(host=host, port=port)


@pytest.mark.parametrize("text", ["", ":80", "x", "x:", "x:-1", "x:65536", "x:²", "x:٣", "x:1e3"])
def test_no_address(text: str) -> None:
    with pytest.raises(ContractError) as raised:
        parse_listen(text)
    assert raised.value.code == "config.address"


def test_a_broker() -> None:
    assert parse_broker("mqtts://broker.example") == ("broker.example", 8883)
    assert parse_broker("mqtts://[::1]:1") == ("::1", 1)


@pytest.mark.parametrize(
    "text", ["", "x", "mqtt://x", "mqtts://", "mqtts://x:y", "mqtts://x:99999", "mqtts://[x"]
)
def test_no_broker(text: str) -> None:
    with pytest.raises(ContractError) as raised:
        parse_broker(text)
    assert raised.value.code == "config.broker"


@pytest.mark.parametrize(
    "host", ["hub.example", "hub", "192.0.2.7", "2001:db8::1", "xn--bcher-kva"]
)
def test_a_host_name(host: str) -> None:
    assert HubConfig(host_names=(host,)).host_names == (host,)


@pytest.mark.parametrize("host", ["", "a b", "bücher", "https://hub", "hub:8443", "-x", "x" * 300])
def test_no_host_name(host: str) -> None:
    with pytest.raises(ContractError) as raised:
        msgspec.structs.replace(HubConfig(), host_names=(host,))
    assert raised.value.code == "config.host_name"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("htp = 1", "`htp`"),
        ("[telemetry]\nx = 1", "$.telemetry"),
        ('log_level = "info"', "DEBUG|INFO|WARNING|ERROR"),
        ("tick_s = 0", "$.tick_s"),
        ('[mqtt]\nhost = "x"\nport = 70000', "$.mqtt.port"),
    ],
)
def test_a_file_that_is_wrong_names_the_key(text: str, told: str) -> None:
    with pytest.raises(ContractError) as raised:
        parse_toml(text.encode(), HubConfig, name="hub.toml")
    assert raised.value.code == "config.invalid"
    assert raised.value.message.startswith("hub.toml: ")
    assert told in raised.value.message
    assert raised.value.remedy
