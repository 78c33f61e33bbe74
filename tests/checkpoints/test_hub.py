"""The hub without a network: a cache laid out as huggingface_hub lays it out, and its own errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from florence2.checkpoints import Checkpoint, hub, load, save
from florence2.errors import CheckpointError
from tests.checkpoints.conftest import assert_same_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # no test may reach for the network
    return tmp_path / "cache"


def put(cache: Path, checkpoint: Checkpoint, repository: str = "someone/florence", ref: str = "main") -> Path:
    home = cache / ("models--" + repository.replace("/", "--"))
    (home / "refs").mkdir(parents=True)
    (home / "refs" / ref).write_text(COMMIT)
    return save(checkpoint, home / "snapshots" / COMMIT, "microsoft")


def test_a_cached_repository_loads_without_a_network(tiny: Checkpoint, cache: Path) -> None:
    put(cache, tiny)
    for offline in (True, None):  # None: HF_HUB_OFFLINE decides
        found = load("someone/florence", offline=offline)
        assert_same_weights(tiny, found)
        assert (found.source, found.config.name) == ("someone/florence", "someone/florence")


@pytest.mark.parametrize("revision", ["v2", COMMIT])
def test_a_revision_is_taken_from_the_cache(revision: str, tiny: Checkpoint, cache: Path) -> None:
    put(cache, tiny, ref="v2")
    assert_same_weights(tiny, load("someone/florence", revision=revision, offline=True))
    with pytest.raises(CheckpointError, match="is not, or not whole, in the cache"):
        load("someone/florence", offline=True)  # main was never fetched


@pytest.mark.parametrize("offline", [True, None])
def test_what_is_not_in_the_cache_says_so(offline: bool | None, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"someone/florence .*in the cache .*asked for offline; run once with"):
        load("someone/florence", offline=offline)


def response(status: int) -> Any:
    """Whatever HTTP library the hub client is built on, its errors want a response of it."""
    library = __import__(errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0])
    if library.__name__ == "requests":
        answer = library.Response()
        answer.status_code = status
        return answer
    return library.Response(status, request=library.Request("GET", "https://huggingface.co/someone/florence"))


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (errors.RepositoryNotFoundError, 404, "no folder someone/florence here and no repository"),
        (errors.GatedRepoError, 403, "is gated: accept its terms"),
        (errors.RevisionNotFoundError, 404, "has no revision v9"),
        (errors.HfHubHTTPError, 503, "the hub refused someone/florence"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    kind: type[Exception], status: int, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise kind("no", response=response(status))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message):
        load("someone/florence", revision="v9")


def test_a_lost_connection_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object, **__: object) -> str:
        raise ConnectionError("the cable is out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lose)
    with pytest.raises(CheckpointError, match="could not be fetched from the hub: the cable is out"):
        load("someone/florence")


def test_pickles_are_fetched_only_where_there_are_no_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.locate("someone/florence")
    assert [options["allow_patterns"][-1] for options in asked] == ["*.safetensors", "pytorch_model*.bin"]
    assert all(not any(pattern.endswith(".py") for pattern in options["allow_patterns"]) for options in asked)
    asked.clear()
    (tmp_path / "model.safetensors").touch()
    hub.locate("someone/florence", revision="abc", offline=True)
    assert [(options["revision"], options["local_files_only"]) for options in asked] == [("abc", True)]


def test_a_folder_here_wins_over_the_hub(
    tiny: Checkpoint, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny, tmp_path / "someone" / "florence", "native")
    monkeypatch.chdir(tmp_path)
    assert load("someone/florence").layout == "native"
    with pytest.raises(CheckpointError, match="revision 'main' means nothing"):
        load("someone/florence", revision="main")


@pytest.mark.parametrize(
    "source", ["nowhere", "./a/b", "a/b/c", "/a/b", "folder/model.safetensors", "https://x.y/z", ""]
)
def test_what_is_neither_here_nor_an_id(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load(source, offline=True)


def test_a_missing_embedded_model_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match="embedded model is missing"):
        load()


def test_the_embedded_model_is_found_from_anywhere(
    nano_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.locate(None).folder.samefile(nano_path)
