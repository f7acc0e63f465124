"""`robust doctor`: what this machine can do."""

from __future__ import annotations

import json
from typing import Any

from robust.cli import options


def doctor(as_json: options.Json = False) -> None:
    """Versions, device, cache, and whether the main job runs here."""
    facts = _facts()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        print(f"{name:10} {shown}")


def _facts() -> dict[str, Any]:
    import os

    import torch

    from robust.data.cache import cache_dir
    from robust.evaluation.store import git_revision, versions
    from robust.metrics.perceptual_extra import extras_told
    from robust.victims import list_victims, load_victim
    from robust.victims.loading import embedded_weights

    devices = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    cache = cache_dir()
    existing = next((folder for folder in (cache, *cache.parents) if folder.exists()), cache)
    embedded = [entry.name for entry in list_victims() if embedded_weights(entry.name).is_file()]
    return {
        "versions": versions(),
        "revision": git_revision() or "installed, no checkout",
        "threads": torch.get_num_threads(),
        "cuda": devices or "none",
        "bf16": "yes" if torch.cuda.is_available() or _cpu_bf16() else "slow on this processor",
        "cache": f"{cache} ({'writable' if os.access(existing, os.W_OK) else 'NOT writable: set ROBUST_CACHE'})",
        "weights": f"{len(embedded)} embedded: {', '.join(embedded)}",
        "perceptual": extras_told(),
        "gradients": f"reach the input of {load_victim('ast').spec.name}" if "ast" in embedded else "not probed",
    }


def _cpu_bf16() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
