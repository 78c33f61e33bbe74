from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import small


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and model; runs go to folders of their own beside them."""
    folder = tmp_path_factory.mktemp("training")
    small.prepare(folder)
    return folder
