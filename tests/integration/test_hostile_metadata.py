"""Whatever bytes a hub sends as metadata, a device ends with one of our errors, and survives."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from shared.errors import IntegrityError, IsthmusError, TransientError
from shared.wire.blocks import Block, BlockRequest, wanted_indexes
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import open_hub

ROLES = ("timestamp", "snapshot", "releases", "targets", "root")


@pytest.fixture(scope="module")
def hub(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite_file: Path
) -> Iterator[ReleaseService]:
    state = tmp_path_factory.mktemp("hub")
    database = Database(f"sqlite:///{migrated_sqlite_file}")
    service = open_hub(state, database, clock=ManualClock(time.time()))
    service.repository.publish({"releases/digits/1/a": b"a"}, custom={})
    service.repository.rotate_root_keys()
    yield service
    database.close()


class HostileHub:
    """Answers truly but for one role, whose bytes are made by `spoil`."""

    def __init__(self, hub: ReleaseService, role: str, spoilt: bytes | None) -> None:
        self._hub, self._role, self._spoilt = hub, role, spoilt
        self.true_bytes = b""
        self.transfer = BlockTransfer(self._publish, ManualClock())

    def _publish(self, request: BlockRequest) -> None:
        for index in wanted_indexes(request):
            self.transfer.deliver(self._block(request.path, index))

    def _block(self, path: str, index: int) -> Block:
        found = self._hub.read_block(path, index)
        if found is None:
            return Block(path=path, index=index, file_bytes=0, data=b"", is_missing=True)
        data = found.data
        if path.endswith(f"{self._role}.json"):
            self.true_bytes = data
            data = self._spoilt if self._spoilt is not None else data
        return Block(path=path, index=index, file_bytes=len(data), data=data)


def outcome(hub: HostileHub, folder: Path, bootstrap: bytes) -> IsthmusError | None:
    verifier = TufVerifier(hub.transfer, folder=folder, bootstrap=bootstrap)
    try:
        verifier.refresh(threading.Event()).file("releases/digits/1/a")
    except IsthmusError as error:
        return error
    return None


def true_bytes(hub: ReleaseService, role: str, folder: Path) -> bytes:
    honest = HostileHub(hub, role, None)
    assert outcome(honest, folder, hub.bootstrap_root()) is None
    return honest.true_bytes


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_spoilt_metadata_is_refused_with_a_code(
    hub: ReleaseService, tmp_path_factory: pytest.TempPathFactory, role: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("device")
    good = true_bytes(hub, role, folder / "honest")
    at = data.draw(st.integers(0, len(good) - 1))
    spoilt = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.binary(min_size=1, max_size=8).map(lambda b: good[:at] + b + good[at + len(b) :]),
            st.just(good[:at]),
            st.just(b"[" * 5000),
            st.just(b'{"signed": {"_type": "timestamp"}, "signatures": []}'),
            st.just(good.replace(b'"version":', b'"version":9')),
            st.just(good.replace(b'"expires":"20', b'"expires":"30')),
            st.just(b'{"a":"\\ud800"}'),
        )
    )
    error = outcome(HostileHub(hub, role, spoilt), folder / "attacked", hub.bootstrap_root())
    if spoilt == good:
        assert error is None
    else:
        assert isinstance(error, IntegrityError | TransientError), spoilt
        assert error.code.startswith(("tuf.", "transfer."))
    assert outcome(HostileHub(hub, "", None), folder / "attacked", hub.bootstrap_root()) is None
