"""Where the tests find what is not part of the repository, and the embedded model that is.

Shared data (golden values, photos) is looked for in the folder that the environment variable FLORENCE2_SHARED
names, else in ``shared`` beside the repository. A test that needs it is skipped, with the reason, where it is absent.
"""

from __future__ import annotations

import os

# Before torch is there, for it and for all processes that tests start: models this small gain nothing from threads, and
# threads that wait for each other on a busy machine cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test depends on time. In CI the examples are the same each run, so that a red run can be repeated.
settings.register_profile(
    "florence2", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("florence2")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder."""
    named = os.environ.get("FLORENCE2_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no shared data: set FLORENCE2_SHARED, or put the folder `shared` beside the repository")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Values computed by Microsoft's reference code."""
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip("the shared folder holds no golden values")
    return folder


@pytest.fixture(scope="session")
def nano_path() -> Path:
    """The embedded model."""
    folder = REPOSITORY / "src" / "florence2" / "assets" / "nano"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("the embedded model is not in this working tree")
    return folder
