"""The five families of errors. Adapters turn every foreign exception into one of them.

What must not live here: anything that decides what to do about an error.

1. `ContractError`: the peer (or a person's file) said something that is not allowed. Drop it,
   count it, go on.
2. `TransientError`: it may work later. Retry with backoff, in the adapter.
3. `RefusedError`: a rule of ours said no. Show it to the person who asked.
4. `IntegrityError`: the bytes are not what was signed. Quarantine, never retry.
5. `UnavailableError`: this process cannot go on. Stop, let the supervisor restart it.

Every error carries a stable `code` ("enrolment.token_used"), a sentence for people, and where
there is something to do about it, the remedy.
"""


class IsthmusError(Exception):
    """Base of the five families; raise one of them, never this."""

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        """Args: code is stable and dotted; message one sentence; remedy what a person can do."""
        super().__init__(f"{message} {remedy}".strip())
        self.code = code
        self.message = message
        self.remedy = remedy


class ContractError(IsthmusError):
    """The peer, or a file a person wrote, broke the contract."""


class TransientError(IsthmusError):
    """It may work later."""


class RefusedError(IsthmusError):
    """A rule of ours said no."""


class IntegrityError(IsthmusError):
    """The bytes are not what was signed."""


class UnavailableError(IsthmusError):
    """This process cannot go on."""
