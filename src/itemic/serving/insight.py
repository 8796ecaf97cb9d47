"""What the page says of models and of traffic: how each was made and measured, and what happens now."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from itemic.data import Table
from itemic.model import Model
from itemic.options import by_path
from itemic.serving.metrics import Seen
from itemic.serving.online import click_rates
from itemic.serving.service import Service
from itemic.serving.shelf import plain
from itemic.serving.stores import Store
from itemic.tokenizers.collisions import numbered
from itemic.tokenizers.diagnostics import entropy, purities

RESULTS = "comparison.json"
"""The file beside the folders of models that holds what `itemic compare ... --json` printed; a demo writes it."""
JUDGED = 10_000
"""Items, at most, by which the purity of codes is judged."""
WINDOW = 60
"""Seconds of traffic that are told."""
LISTS = 5000
"""Lists and events, the newest, among which clicks are counted."""
QUIET = ("/v1/live", "/v1/health", "/v1/ready", "/v1/metrics", "/", "/static/{name}")
"""What is no traffic: looking at the service."""


def models_told(service: Service, can_chat: bool) -> dict[str, Any]:
    """What answers, what it is made of, and how it was measured."""
    told = []
    for name, pipeline in service.pipelines.items():
        config, parts = pipeline.config, {role: getattr(pipeline, role) for role in pipeline.declared}
        one = {"name": name, "sources": list(config.sources), "ranker": config.ranker}
        one["answers"] = list(pipeline.entry.answers)
        one["chats"] = can_chat and any("dialogue" in part.entry.answers for part in parts.values())
        one["parts"] = [_part(role, part, pipeline.catalogue.items) for role, part in parts.items()]
        told.append(one)
    return {"models": told, "comparison": _comparison(service.config.models)}


def _part(role: str, model: Model, items: Table) -> dict[str, Any]:
    entry, fitted = model.entry, model.fitted_on
    keep = ("name", "interactions", "seconds", "epochs", "best_epoch")
    arrays = [*model.weights.values(), *model.tables.values()]
    return {
        "role": role,
        "system": entry.name,
        "family": entry.family,
        "paper": entry.paper,
        "new_items": entry.cold_items,
        "fitted_on": {key: fitted[key] for key in keep if fitted.get(key) is not None},
        "curve": plain(fitted.get("curve") or []),
        "options": plain(by_path(model.config.model_dump(mode="json"))),
        "bytes": int(sum(array.nbytes for array in arrays)),
        "codes": [
            {"tokenizer": one.entry.name, **code_use(one.codes, one.sizes, items)}
            for one in _within(model)
            if one.entry.kind == "tokenizer"
        ],
    }


def _within(model: Model) -> Iterator[Any]:
    """A model and all that it is made of."""
    yield model
    for part in model.parts.values():
        yield from _within(part)


def code_use(codes: Int[np.ndarray, "items levels"], sizes: Iterable[int], items: Table) -> dict[str, Any]:
    """How evenly the codes of the first of these items are used, level by level, how pure their beginnings are among
    some of them, and how many items share theirs.

    >>> from itemic.data import Ids
    >>> items = Table.of(Ids.numbered(4), {"kind": ["cup", "cup", "pen", "pen"]}, {"category": ["kind"]})
    >>> use = code_use(np.array([[0, 1], [0, 0], [1, 1], [1, 1]], np.int32), (2, 4), items)
    >>> use["sharing"], use["category"], use["levels"][1]
    (2, 'kind', {'size': 4, 'used': 2, 'entropy': 0.811, 'counts': [3, 1], 'purity': 1.0, 'chance': 0.75})
    """
    there = codes[codes[:, 0] >= 0]
    same = np.bincount(numbered(there))
    some = np.random.default_rng(0).permutation(len(codes))[:JUDGED]  # of all it would hold up who asks for lists
    column, pure = purities(codes[some], items.take(some))
    levels: list[dict[str, Any]] = []
    for level, size in enumerate(sizes):
        counts = np.sort(np.bincount(there[:, level]))[::-1]
        counts = counts[counts > 0]
        told = {"used": len(counts), "entropy": round(entropy(counts), 3), "counts": counts.tolist()}
        levels.append({"size": size, **told})
    for level, (share, by_chance) in zip(levels, pure):
        level |= {"purity": round(share, 3), "chance": round(by_chance, 3)}
    return {
        "items": len(there),
        "sharing": int(same[same > 1].sum()),
        "category": column,
        "judged": len(some),
        "levels": levels,
    }


def _comparison(models: Mapping[str, str]) -> dict[str, Any] | None:
    """What was measured, from the file beside the models; None where there is none that can be read."""
    for place in dict.fromkeys(Path(folder).parent for folder in models.values()):
        try:
            found = json.loads((place / RESULTS).read_text(), parse_constant=lambda _: None)
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(found.get("systems"), list):
            return found
    return None


def live_told(recent: Iterable[Seen], store: Store, now: float) -> dict[str, Any]:
    """The requests of the last minute by path, and what became of the newest lists by model."""
    minute = [one for one in recent if now - WINDOW < one.moment <= now and one.route not in QUIET]
    by_route: dict[str, list[Seen]] = defaultdict(list)
    second = np.zeros(WINDOW, int)
    for one in minute:
        by_route[one.route].append(one)
        second[min(WINDOW - 1, int(one.moment - now + WINDOW))] += 1
    shown, events = store.newest(LISTS)
    return {
        "seconds": WINDOW,
        "by_second": second.tolist(),
        "all": _latency("all", minute),
        "paths": [_latency(route, of) for route, of in sorted(by_route.items(), key=lambda pair: -len(pair[1]))],
        "models": [
            {"model": one.model, "lists": one.lists, "clicked": one.clicked, "rate": one.rate, "interval": one.interval}
            for one in click_rates(shown, events)
        ],
        "events": len(events),
    }


def _latency(path: str, seen: list[Seen]) -> dict[str, Any]:
    """Counts and latencies in milliseconds; None where there were no requests."""
    times = np.array([one.seconds for one in seen]) * 1000
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).round(3).tolist() if len(times) else (None, None, None)
    failed = sum(one.status >= 400 for one in seen)
    return {"path": path, "requests": len(seen), "failed": failed, "p50": p50, "p95": p95, "p99": p99}
