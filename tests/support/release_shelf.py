"""ReleaseShelf: the hub's releases for tests that move no files. Answers as ReleaseService does."""

from dataclasses import dataclass

from shared.errors import RefusedError
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, Tolerance, WindowInput
from shared.release.digest import digest_of
from shared.release.manifest import (
    FileEntry,
    Manifest,
    Variant,
    encode_manifest,
    file_path,
    manifest_digest,
)

TOLERANCE = Tolerance(absolute=1e-3, relative=0.0)


@dataclass(frozen=True)
class ShelvedRelease:
    model: str
    version: int
    manifest_digest: str


class ReleaseShelf:
    """Holds a release for every (model, version) it was made with."""

    def __init__(self, *names: tuple[str, int]) -> None:
        self._manifests = {name: _manifest(*name) for name in names}

    def get(self, model: str, version: int) -> ShelvedRelease:
        manifest = self.manifest(model, version)
        return ShelvedRelease(model, version, manifest_digest(encode_manifest(manifest)))

    def manifest(self, model: str, version: int) -> Manifest:
        try:
            return self._manifests[model, version]
        except KeyError:
            text = f"There is no release {model}:{version}."
            raise RefusedError("release.unknown", text) from None


def _manifest(model: str, version: int) -> Manifest:
    def entry(name: str) -> FileEntry:
        path = file_path(model, version, name)
        return FileEntry(path=path, digest=digest_of(path.encode()), file_bytes=1000)

    return Manifest(
        model=model,
        version=version,
        lineage_id=f"line-{version}",
        created_ms=1_700_000_000_000,
        spec=ModelSpec(
            model=model,
            task=Task.CLASSIFICATION,
            input=WindowInput(samples=16),
            output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
            tolerance=TOLERANCE,
        ),
        variants=tuple(
            Variant(precision=p, artifact=entry(f"{p}.onnx"), golden=entry(f"{p}.npz"))
            for p in ("int8", "fp32")
        ),
    )
