"""Where a checkpoint lies: the embedded model, a folder, a file, or a repository of the Hugging Face hub.

The hub is spoken to through huggingface_hub alone, so its cache, its token, ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE`` work as everywhere else. Only what is needed is fetched: the JSON files, the tokenizer and one
set of weights. No code is ever fetched or run.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2.errors import CheckpointError

DESCRIPTIONS = ("*.json", "merges.txt")
"""What a checkpoint has beside its weights: configuration, tokenizer, and where there is one a calibration."""


@dataclass(frozen=True)
class Place:
    """A folder on this machine, and what its owner calls it."""

    folder: Path
    name: str
    """The hub id, or the name of the folder."""
    weights: Path | None = None
    """The one file of weights that was asked for; None to find them."""


Fetch = Callable[[str, "str | None", "bool | None"], Path]
"""(repository, revision, offline) → the folder with what of it is needed."""


def locate(
    source: str | Path | None, revision: str | None = None, offline: bool | None = None, fetch: Fetch | None = None
) -> Place:
    """Find a checkpoint, downloading it where ``source`` is a hub id that is not in the cache.

    ``source``: None for the embedded model, a folder, a file of weights, or "owner/name". What exists on this
    machine wins over a hub id of the same form. ``revision`` is a branch, tag or commit of the hub;
    ``offline=True`` uses the cache only, None leaves that to ``HF_HUB_OFFLINE``. ``fetch`` downloads, by default the
    weights as safetensors, else as pytorch_model.bin.
    """
    if source is None:
        return _embedded()
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise CheckpointError(f"{path} is on this machine, where revision {revision!r} means nothing; leave it out")
        if path.is_file():
            return Place(path.parent, path.resolve().parent.name, weights=path)
        return Place(path, path.resolve().name)
    source = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) or path.suffix in (".safetensors", ".bin"):
        raise CheckpointError(
            f"there is no file or folder {source}, and it is not the id of a hub repository, which has the form "
            "owner/name, e.g. microsoft/Florence-2-base"
        )
    return Place((fetch or _weights)(source, revision, offline), source)


def _embedded() -> Place:
    folder = Path(str(importlib.resources.files("florence2"))) / "assets" / "nano"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the embedded model is missing from this installation ({folder}); reinstall florence2, or name a "
            "checkpoint such as microsoft/Florence-2-base"
        )
    return Place(folder, "florence2-nano")


def _weights(repository: str, revision: str | None, offline: bool | None) -> Path:
    """The snapshot of a repository: safetensors where there are any, else pytorch_model.bin."""
    beside = ("*/*",)  # exports to other runtimes live in sub-folders
    folder = snapshot(repository, revision, offline, ("*.safetensors",), beside)
    if not any(folder.glob("*.safetensors")):
        folder = snapshot(repository, revision, offline, ("pytorch_model*.bin",), beside)
    return folder


def snapshot(
    repository: str,
    revision: str | None,
    offline: bool | None,
    patterns: Sequence[str],
    ignored: Sequence[str] | None = None,
) -> Path:
    """The folder of a repository's files that match ``patterns``, with the descriptions of its checkpoint.

    Raises CheckpointError, which says what to do, for whatever the hub, the network or the cache refuse.
    """
    import huggingface_hub  # only those who ask for the hub wait for its import
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{repository} (revision {revision})" if revision else repository
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[*DESCRIPTIONS, *patterns],
                ignore_patterns=None if ignored is None else list(ignored),
                local_files_only=bool(offline),
            )
        )
    except GatedRepoError as error:  # a child of RepositoryNotFoundError, so it comes first
        raise CheckpointError(
            f"{repository} is gated: accept its terms on https://huggingface.co/{repository}, then run "
            "'hf auth login' or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {repository} here and no repository {repository} on the hub; check the spelling, or "
            "set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repository} has no revision {revision}; give a branch, tag or commit of it") from error
    except LocalEntryNotFoundError as error:
        why = "it was asked for offline" if _is_offline(offline) else "the hub cannot be reached"
        raise CheckpointError(
            f"{at} is not, or not whole, in the cache of this machine and {why}; run once with network, or copy the "
            "folder here and give its path (there is no such folder yet)"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"the hub refused {at}: {error}; try again later, or give a local folder") from error
    except Exception as error:  # the transport below the hub has a family of errors of its own
        raise CheckpointError(f"{at} could not be fetched from the hub: {error}") from error


def _is_offline(offline: bool | None) -> bool:
    from huggingface_hub import constants

    return bool(offline) or bool(constants.HF_HUB_OFFLINE)
