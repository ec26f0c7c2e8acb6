"""LedgerContent: what learning has cost the device's privacy in its life; one charge more. Pure.

1. Per model one number, the sum of rho (budget.py, rule 1).
2. The same update (Job, Round, base, noise) charged again costs nothing while it is the last one of
   its Job: that is how long its answer is kept, and an answer computed anew is another release.
   What a hub could ask twice to average the noise away - an older Round, other base weights, less
   noise - is another charge.
3. `count` rises by one with every charge, and `previous` is the digest of the content before.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.training.budget import affords, cost_of_rho, rho_of
from edge_agent.training.settings import PrivacySettings
from shared.errors import RefusedError
from shared.learning.task import Round
from shared.wire.limits import Count, Digest, Name

ACCOUNTS_MAX = 1024  # Models in a life
CHARGES_MAX = 64  # Jobs whose last charge is remembered; a repeat of an older one costs again

Rho = Annotated[float, Meta(ge=0.0, le=1e12)]


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's lifetime cost."""

    model: Name
    rho: Rho = 0.0
    charges_count: Count = 0


class Charge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last charge of one Job; see rule 2."""

    job: Name
    model: Name
    round: Round
    base_digest: Digest
    noise_multiplier: Annotated[float, Meta(gt=0.0, le=1000.0)]


class LedgerContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed in the ledger."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    count: Count = 0
    previous: Digest | None = None
    accounts: Annotated[tuple[Account, ...], Meta(max_length=ACCOUNTS_MAX)] = ()
    charges: Annotated[tuple[Charge, ...], Meta(max_length=CHARGES_MAX)] = ()  # Newest last

    def account(self, model: str) -> Account:
        """Return a model's account, an empty one if nothing was ever charged."""
        found = (account for account in self.accounts if account.model == model)
        return next(found, Account(model=model))


class AnchorContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed in the anchor."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    count: Count
    ledger: Digest | None  # None: there was no ledger yet


NO_ANCHOR = AnchorContent(count=0, ledger=None)


def charged(
    content: LedgerContent, charge: Charge, *, previous: str | None, privacy: PrivacySettings
) -> LedgerContent:
    """Return the content after a charge that is not in it. Raises RefusedError.

    Args: previous: the digest of `content`; None before the first charge.

    Codes: `budget.spent` if it would be more than the owner allows, `ledger.full`.
    """
    old = content.account(charge.model)
    if not affords(privacy, cost_of_rho(old.rho), charge.noise_multiplier):
        raise RefusedError(
            "budget.spent",
            f"The privacy budget of the model {charge.model} is spent.",
            remedy="Only a higher learning.privacy.epsilon_max lets it go on.",
        )
    others = [account for account in content.accounts if account.model != charge.model]
    if len(others) >= ACCOUNTS_MAX:
        raise RefusedError("ledger.full", f"The ledger holds {ACCOUNTS_MAX} models already.")
    new = Account(
        model=old.model,
        rho=old.rho + rho_of(charge.noise_multiplier),
        charges_count=old.charges_count + 1,
    )
    charges = [past for past in content.charges if past.job != charge.job]
    return LedgerContent(
        count=content.count + 1,
        previous=previous,
        accounts=(*others, new),
        charges=(*charges, charge)[-CHARGES_MAX:],
    )


def is_anchored(content: LedgerContent, digest: str, anchor: AnchorContent) -> bool:
    """Return whether a ledger is the one that the anchor names, or its direct successor."""
    is_same = (content.count, digest) == (anchor.count, anchor.ledger)
    is_next = (content.count, content.previous) == (anchor.count + 1, anchor.ledger)
    return is_same or is_next
