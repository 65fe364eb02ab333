"""Uploads the files of a folder to a dataset on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cai.errors import CaiError, MissingExtra, UsageError
from cai.texts.wording import reason_of


class Hub:
    """One dataset there; raises UsageError if no token is set or `repo` is not a name, before anything is sent.

    The token is the one that huggingface_hub finds: HF_TOKEN, or that of a login.
    """

    def __init__(self, repo: str, private: bool) -> None:
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.errors import HFValidationError
            from huggingface_hub.utils import validate_repo_id
        except ImportError:
            raise MissingExtra("--push", "data") from None
        self.repo, self.private, self._api = repo, private, HfApi()
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise UsageError(f"--push {repo!r} is not a dataset name, write org/name: {reason_of(error)}") from None
        if get_token() is None:
            raise UsageError("--push has no token: set HF_TOKEN to one that may write, or run: hf auth login")

    def push(self, folder: Path, names: Iterable[str], owned: Iterable[str]) -> str:
        """Upload the files `names`, and delete those of `owned` there that are not among them; returns the address.

        Raises UsageError if private rows would go to a public dataset, CaiError if the hub refuses.
        """
        api, names = self._api, list(names)
        try:
            dataset = api.create_repo(self.repo, repo_type="dataset", private=self.private, exist_ok=True)
            if self.private and not api.dataset_info(dataset.repo_id).private:
                raise UsageError(
                    f"{dataset.repo_id} is public already: push under another name, or ask for a public one"
                )
            api.upload_folder(
                repo_id=dataset.repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=names,
                delete_patterns=sorted(set(owned) - set(names)),
                commit_message="Training rows and card by cai export",
            )
        except UsageError:
            raise
        except Exception as error:  # the hub's own errors, its HTTP library's and the system's have no common base
            raise CaiError(f"cannot push to {self.repo}: {reason_of(error)}; the files are in {folder}") from error
        return str(dataset)
