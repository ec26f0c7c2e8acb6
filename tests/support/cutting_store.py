"""An object store on which the power goes at a chosen write."""

from cloud_hub.object_store import ObjectStore


class PowerCutError(BaseException):
    """Nothing after this happens: no `except` of ours may catch it."""


class CuttingStore(ObjectStore):
    """`cut_at` counts from 0; the write there happens or not, and then nothing more."""

    def __init__(self, place: str, *, cut_at: int, is_written: bool) -> None:
        super().__init__(place)
        self.puts: list[str] = []
        self._cut_at, self._is_written = cut_at, is_written

    def put(self, path: str, data: bytes) -> None:
        if len(self.puts) == self._cut_at:
            if self._is_written:
                super().put(path, data)
            raise PowerCutError
        self.puts.append(path)
        super().put(path, data)
