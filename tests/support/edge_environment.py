"""A virtual environment that holds exactly what `isthmus[edge]` declares, and nothing else."""

import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def make_edge_python(folder: Path) -> Path:
    """Make the environment in `folder` out of what is installed here; return its Python."""
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for dist in declared("edge").values():
        for top in {file.parts[0] for file in dist.files or [] if ".." not in file.parts}:
            link = packages / top
            if top != "__pycache__" and not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))).resolve())
    own = distribution("isthmus")
    for metadata in {file.parts[0] for file in own.files or [] if "dist-info" in file.parts[0]}:
        (packages / metadata).symlink_to(Path(str(own.locate_file(metadata))).resolve())
    (packages / "isthmus.pth").write_text(str(ROOT))
    return folder / "bin" / "python"


def declared(extra: str) -> dict[str, Distribution]:
    """Return every distribution that `isthmus[extra]` asks for, and what those ask for."""
    found: dict[str, Distribution] = {}
    pending = [(distribution("isthmus"), {"", extra})]
    while pending:
        dist, extras = pending.pop()
        for text in dist.requires or []:
            need = Requirement(text)
            wanted = need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras)
            name = canonicalize_name(need.name)
            if wanted and name not in found:
                found[name] = distribution(need.name)
                pending.append((found[name], {"", *need.extras}))
    return found
