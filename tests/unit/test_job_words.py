"""What a device can say about a Job, and that the hub has words for all of it and nothing else."""

import re
from types import ModuleType

import pytest

from cloud_hub.api.job_words import DEVICE_CODES, code_text
from edge_agent.training import admission, eligibility, learner, policy

CODE = re.compile(r"[a-z]+\.[a-z_]+")
# Of errors, which are raised where the ledger is and passed on as they are.
OF_THE_LEDGER = {"ledger.busy", "ledger.damaged", "ledger.full"}


def codes_of(module: ModuleType) -> set[str]:
    """Return the codes that a module names."""
    named = (value for name, value in vars(module).items() if name.isupper())
    return {value for value in named if isinstance(value, str) and CODE.fullmatch(value)}


def test_the_hub_has_words_for_every_code_that_a_device_reports() -> None:
    found = {
        module.__name__: codes_of(module) for module in (admission, eligibility, learner, policy)
    }
    assert all(found.values()), found
    assert set(DEVICE_CODES) == set().union(*found.values()) | OF_THE_LEDGER


@pytest.mark.parametrize("code", sorted(DEVICE_CODES))
def test_words_stand_in_the_middle_of_a_sentence(code: str) -> None:
    assert code_text(code)[0].islower()
    assert not code_text(code).endswith(".")


def test_a_code_of_a_newer_agent_is_put_into_the_words_of_its_family() -> None:
    assert code_text("eligibility.moon") == "its own rules say not now"
    assert code_text("something.else") == ""
