"""Memory: the Concluder of whoever decides now. A new release or new settings go on from the last.

What must not live here: what is remembered (decisions/concluder.py).
"""

from edge_agent.decisions.concluder import Concluder
from edge_agent.inference.session import ModelSession
from shared.pipeline.decisions import DecisionSettings


class Memory:
    """One for the serving release, one for its companion. In the order of items."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._concluder: Concluder | None = None
        self._of: tuple[ModelSession, DecisionSettings] | None = None

    @property
    def concluder(self) -> Concluder | None:
        """Return who concluded last; None at first."""
        return self._concluder

    def of(
        self,
        session: ModelSession,
        decisions: DecisionSettings,
        *,
        before: Concluder | None = None,
    ) -> Concluder:
        """Return who concludes from what `session` says, by `decisions`.

        Args: before: whose memory a first one goes on from.
        """
        if self._of is None or self._of[0] is not session or self._of[1] is not decisions:
            last = self._concluder or before
            self._concluder = Concluder(session.spec, decisions)
            if last is not None:
                self._concluder.carry_over(last)
            self._of = (session, decisions)
        assert self._concluder is not None, "made above"
        return self._concluder

    def forget(self) -> None:
        """Let the session go."""
        self._concluder, self._of = None, None
