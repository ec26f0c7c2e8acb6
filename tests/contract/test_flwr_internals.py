"""What of Flower's insides the SuperLink's process relies on, by name: an upgrade breaks here."""

import inspect
import zipfile
from importlib import import_module
from importlib.metadata import version
from io import BytesIO

import pytest
from flwr.common.config import get_fab_config
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from cloud_hub.training.flwr_access import TokenAuthn
from cloud_hub.training.flwr_fab import ATTEMPT, JOB, empty_fab
from cloud_hub.training.superlink_start import SERVER_MODULE

CONTROL = "flwr.superlink.servicer.control.control_handlers"
STATE = "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState"
CALLS = {
    f"{CONTROL}:register_node": ["request", "account", "state"],
    f"{CONTROL}:unregister_node": ["request", "account", "state"],
    f"{CONTROL}:start_run": ["request", "account", "state", "fleet_api_type", "source"],
    f"{STATE}.get_node_info": ["self", "node_ids", "owner_aids", "statuses"],
    f"{STATE}.claim_task": ["self", "task_id"],
    f"{STATE}.finish_task": ["self", "task_id", "sub_status", "details"],
    f"{STATE}.stop_run": ["self", "run_id"],
    f"{STATE}.cleanup_run": ["self", "run_id"],
    f"{STATE}.session": ["self"],
}


def test_flower_is_a_version_that_was_tried() -> None:
    major, minor = (int(part) for part in version("flwr").split(".")[:2])
    assert (1, 41) <= (major, minor) < (1, 43)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_takes_what_we_give_it(name: str) -> None:
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == CALLS[name]


def test_the_app_is_made_from_the_settings_we_give() -> None:
    assert list(inspect.signature(create_app).parameters) == ["config", "superlink_lifespan_class"]
    assert len(inspect.signature(SuperLinkLifespanConfig).parameters) == 22


def test_the_control_api_asks_the_token_and_nothing_else_opens_it() -> None:
    authn = TokenAuthn("right")
    assert authn.validate_tokens_in_metadata([]) == (False, None)
    assert authn.validate_tokens_in_metadata([("flwr-oidc-access-token", "wrong")])[0] is False
    is_let_in, account = authn.validate_tokens_in_metadata([("flwr-oidc-access-token", "right")])
    assert is_let_in
    assert isinstance(account, AccountInfo)


def test_the_bundle_is_valid_to_flower_and_holds_no_code() -> None:
    config = get_fab_config(empty_fab())["tool"]["flwr"]["app"]
    assert set(config["config"]) == {JOB, ATTEMPT}
    assert config["components"]["serverapp"].startswith(SERVER_MODULE)
    assert zipfile.ZipFile(BytesIO(empty_fab())).namelist() == ["pyproject.toml"]
    assert empty_fab() == empty_fab()
