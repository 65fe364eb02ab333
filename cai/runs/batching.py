"""The batches of a run: which of its models have them, and how many of its flows live at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import Any

from cai.calls.batches.waves import Batches, left_at_provider, remove_spools
from cai.calls.live import Live
from cai.calls.model import Model, spec_of
from cai.calls.prices import Tally
from cai.errors import RunError, UsageError
from cai.folder.identity import identity_hash
from cai.folder.journal.batches import Batch, BatchJournal
from cai.folder.run import RunFolder
from cai.models import PROVIDERS, provider_of
from cai.models.remote.addresses import KEY_OF_HOST
from cai.models.specs import parts_of
from cai.packages import need
from cai.records import Object
from cai.texts.wording import counted, listed

log = logging.getLogger("cai")
OPEN = re.compile(r"https?://[^/]+(/(v\d[a-z\d.]{0,8}|[a-z]{1,12}))*")  # an address without a part that may be a key
FLOWS = 50_000  # at once: each takes 2 KB while it waits, and a file of OpenAI's holds as many calls


def check_batches(models: Sequence[Model]) -> None:
    """Raise UsageError if no model of a run is asked in batches, MissingExtra if an SDK that takes them is missing."""
    offers = [offer for model in models if (offer := provider_of(model).batches) is not None]
    for offer in offers:
        need(f"--batch through the package {offer.package}", "cloud", offer.package)
    if not offers:
        names = listed(sorted({spec_of(model) for model in models}))
        known = listed([f"{name}:NAME" for name, provider in PROVIDERS.items() if provider.batches])
        raise UsageError(f"--batch: {names} takes no batches: use {known}, or leave out --batch")


def open_batches(
    folder: RunFolder, models: Sequence[Model], settings: Any, identity: Object, live: Live, tally: Tally
) -> dict[int, Batches]:
    """The batches of a run by the ids of its models; none without --batch.

    Raises RunError if calls without would be paid twice: the folder has batches whose answers are still to be taken.
    """
    journal = BatchJournal(folder.store.rows.db, folder.store.rows.guard)
    if not settings.batch:
        left = left_at_provider(journal)
        if left:
            raise RunError(
                f"{folder.path} has {counted(len(left), 'batch')} whose answers are still at the provider: add --batch "
                "to take them; with --batch-wait 0s they are cancelled, and what they have not answered is asked online"
            )
        return {}
    check_batches(models)
    remove_spools(folder.path, journal)
    run = identity_hash(identity)
    opened = {}
    for model in models:
        offer = provider_of(model).batches
        if offer is not None:
            service = offer.open(model, settings.timeout, run)
            place = (folder.store, folder.path, live, tally)
            has_made = partial(_has_made, name_of(model), set(map(name_of, models)))
            opened[id(model)] = Batches(name_of(model), has_made, service, *place, settings.patience, offer.share)
    return opened


def name_of(model: Model) -> str:
    """What the journal calls a model: with an address that is its spec's own, so that it is found there again."""
    variables: Sequence[str] = getattr(model, "key_variables", ())
    is_own = any(name.startswith(KEY_OF_HOST) for name in variables)
    return f"{spec_of(model)}@{model.endpoint}" if is_own and OPEN.fullmatch(model.endpoint) else spec_of(model)


def _has_made(name: str, names: Set[str], maker: str) -> bool:
    """Whether a model of this name has made the batches of `maker`; names: of all models of the run.

    An address that none of them has is the one from which a server has moved.
    """
    return maker == name or (maker not in names and parts_of(maker)[:2] == parts_of(name)[:2])


async def close_batches(folder: RunFolder, opened: Mapping[int, Batches]) -> None:
    """Let go of the batches of a run, and say how many go on at the provider."""
    for batches in opened.values():
        await batches.close()
    left: list[Batch] = []
    if opened:
        with suppress(RunError):  # which has ended the run, and is shown
            left = left_at_provider(BatchJournal(folder.store.rows.db, folder.store.rows.guard))
    if left:
        are = "batch is" if len(left) == 1 else "batches are"
        log.warning("%d %s in progress at the provider; the same command picks up the answers", len(left), are)
