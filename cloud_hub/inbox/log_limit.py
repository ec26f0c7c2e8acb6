"""LogLimit: the same line about the same thing once per period, however often it happens. Pure."""

from collections import OrderedDict
from collections.abc import Hashable


class LogLimit:
    """Remembers at most `keys_max` things; past that the one logged longest ago is forgotten."""

    def __init__(self, *, period_s: float, keys_max: int) -> None:
        self._period_s, self._keys_max = period_s, keys_max
        self._logged_s: OrderedDict[Hashable, float] = OrderedDict()

    def allows(self, key: Hashable, now_s: float) -> bool:
        """Return whether `key` has not been logged for a period; if so, it now is."""
        before_s = self._logged_s.get(key)
        if before_s is not None and now_s - before_s < self._period_s:
            return False
        self._logged_s[key] = now_s
        self._logged_s.move_to_end(key)
        if len(self._logged_s) > self._keys_max:
            self._logged_s.popitem(last=False)
        return True
