"""The command that repeats a run, with every option, read from its manifest; and the facts of its environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from robust.report.reading import Run

DROPPED = {"--out": True, "--resume": False, "--json": False, "--by": True}
"""Options that say where a run goes and how it is told, and whether they take a value."""
SHARED = {
    "geometry": ("--model", "--data", "--split", "--batch-size", "--device", "--seed"),
    "noise": ("--model", "--data", "--split", "--device", "--seed"),
    "music": ("--model", "--data", "--device", "--seed"),
    "sticker": ("--model", "--data", "--split", "--device", "--seed"),
}
"""Command -> options of `_common` that it has."""
VERBS = {"attack": "attack", "air": "air", "purification": "attack", "certificate": "certify"}
"""Kinds whose command is known whole -> its name."""
DTYPES = {"torch.bfloat16": "bf16"}


def repeat_command(run: Run) -> str:
    """The run's command, shell-quoted, with each option spelt out that its manifest knows; a study's as typed."""
    words = _words(str(run.manifest.get("command", "")))
    if cell_name(run):
        # Victims and data of a study have names of their own, which no other command knows.
        return str(run.manifest.get("command", "")) if words is None else _joined(*words, {})
    if run.kind in VERBS and {"threat", "sigma"} & run.manifest.keys():
        verb, given = words if words is not None and words[0] == VERBS[run.kind] else (VERBS[run.kind], [])
        settings = {**_common(run.manifest), **_own(run)}
        if not given:  # made from Python: how much of the data was taken is known by its number alone
            settings["--limit"] = str(run.manifest.get("data", {}).get("clips", ""))
        return _joined(verb, [*given, *_switches(run, given)], settings)
    if run.kind == "change" and words is not None and words[0] == "attack":
        return _joined(*words, _common(run.manifest))
    if words is not None:
        return _joined(*words, _shared(run.manifest, words[0]))
    return str(run.manifest.get("command", ""))


def was_typed(run: Run) -> bool:
    """Whether `repeat_command` is what was typed, and not made up for a run from Python."""
    words = _words(str(run.manifest.get("command", "")))
    return words is not None and (bool(cell_name(run)) or VERBS.get(run.kind, words[0]) == words[0])


def cell_name(run: Run) -> str:
    """What the study calls the cell that the run is; empty of a run that belongs to none."""
    told = run.manifest.get("cell")
    if isinstance(told, Mapping):
        return ", ".join([*(str(told.get(name, "?")) for name in ("victim", "condition", "data")), _seed(told)])
    return run.name if run.study else ""


def _seed(told: Mapping[str, Any]) -> str:
    return f"seed {told.get('seed', '?')}"


def _words(command: str) -> tuple[str, list[str]] | None:
    """Sub-command and its words, or None where the command is another program's."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unquoted apostrophe, of manifests that joined words by blanks
        words = command.split()
    if len(words) < 2 or PurePath(words[0]).name != "robust":
        return None
    return words[1], _kept(words[2:])


def _kept(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        name, sign, _ = word.partition("=")
        if skip or name in DROPPED:
            skip = name in DROPPED and DROPPED[name] and not sign
            continue
        kept.append(word)
    return kept


def _joined(verb: str, given: list[str], settings: Mapping[str, str]) -> str:
    """What was typed, then what it left to defaults."""
    typed = {word.partition("=")[0] for word in given if word.startswith("--")}
    added = [word for name, value in settings.items() if name not in typed and value for word in (name, value)]
    return shlex.join(["robust", verb, *given, *added])


def _common(manifest: Mapping[str, Any]) -> dict[str, str]:
    data, victim = manifest.get("data", {}), manifest.get("victim", {})
    return {
        "--model": str(victim.get("name", "")),
        "--data": str(data.get("name", "")),
        "--split": str(data.get("split", "")),
        "--batch-size": str(manifest.get("batch_size", "")),
        "--device": str(manifest.get("device", "")),
        "--seed": str(manifest.get("seed", "")),
    }


def _shared(manifest: Mapping[str, Any], verb: str) -> dict[str, str]:
    """Of the options that many commands have, those that this one has."""
    names = SHARED.get(verb, ())
    return {name: value for name, value in _common(manifest).items() if name in names} if manifest else {}


def _own(run: Run) -> dict[str, str]:
    """The options that a command has for itself."""
    if run.kind == "certificate":
        return _certify(run.manifest, run.summary)
    own = {"attack": _attack, "air": _air, "purification": _purify}[run.kind]
    return own(run.manifest, run.summary)


def _switches(run: Run, given: list[str]) -> list[str]:
    """Options without a value that are not among those given."""
    told = {"--no-cascade": run.kind == "purification" and run.manifest.get("cascade") is False}
    told["--no-attack"] = run.kind == "certificate" and run.manifest.get("attack", {}) is None
    return [name for name, on in told.items() if on and name not in given]


def _purify(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    return {
        **_attack(manifest, summary),
        "--purify": str((summary.get("purifier") or {}).get("name", "")),
        "--attacks": ",".join(manifest.get("attacks") or []),
        "--draws": _plain(manifest.get("draws")),
        "--queries": _plain(manifest.get("queries")),
    }


def _certify(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    radius, radii = manifest.get("radius"), manifest.get("radii") or []
    attack = manifest.get("attack") or {}
    return {
        "--sigma": _plain(manifest.get("sigma")),
        "--denoise": str((summary.get("denoiser") or {}).get("name", "")),
        **{f"--{name}": _plain(manifest.get(name)) for name in ("n0", "n", "alpha", "radius")},
        "--radii": "" if radii == [radius] else ",".join(_plain(level) for level in radii),
        "--attack-steps": _plain(attack.get("steps")),
        "--attack-draws": _plain(manifest.get("draws")) if attack else "",
    }


def _air(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    names = ("--norm", "--eps", "--unit", "--steps", "--restarts", "--loss", "--schedule", "--target")
    attack = _attack(manifest, summary)
    return {
        **{name: attack[name] for name in names},
        "--channel": str(summary.get("channel") or ""),
        "--draws": _plain(manifest.get("draws")),
        "--keep-steps": _plain(manifest.get("keep_steps")),
        "--situations": _plain(manifest.get("situations")),
        "--plain-steps": _plain(manifest.get("plain_steps")),
    }


def _attack(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    threat, config = manifest["threat"], manifest.get("config", {})
    norms = {str(ball["norm"]) for ball in threat.values()}
    target, labels = manifest.get("target"), manifest.get("victim", {}).get("labels", [])
    scale = manifest.get("scale")
    return {
        "--modality": "both" if len(threat) > 1 else next(iter(threat), ""),
        "--norm": norms.pop() if len(norms) == 1 else "",
        "--eps": _by_modality({name: ball["radius"] for name, ball in threat.items()}),
        "--unit": _by_modality({name: ball["unit"] for name, ball in threat.items()}),
        "--scale": ",".join(f"{name}={_plain(value)}" for name, value in scale.items()) if scale else "",
        "--steps": _plain(config.get("steps")),
        "--restarts": _plain(config.get("restarts")),
        "--loss": _plain(config.get("loss")),
        "--schedule": _plain(config.get("schedule")),
        "--step-size": _plain(config.get("rel_step")),
        "--momentum": _plain(config.get("momentum")),
        "--precision": DTYPES.get(str(config.get("search_dtype")), "fp32"),
        "--target": labels[target] if isinstance(target, int) and target < len(labels) else "",
        "--success": _plain(manifest.get("success")),
    }


def _by_modality(values: Mapping[str, Any]) -> str:
    if any(isinstance(value, list) for value in values.values()):
        return ""  # a radius for each clip has no option
    if len(values) == 1:
        return _plain(next(iter(values.values())))
    return ",".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    """A value as the command line takes it; nothing for a default that is decided at run time."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def environment(run: Run) -> list[tuple[str, str]]:
    """What the result depends on, and where it was made: names and values."""
    manifest = run.manifest
    data = manifest.get("data")
    facts = {
        "Weights": _hash(manifest.get("weights")),
        "Data": _hash(data.get("fingerprint") if isinstance(data, Mapping) else None),
        "Seed": manifest.get("seed"),
        "Batch size": manifest.get("batch_size"),
        "Device": manifest.get("device"),
        "Made": manifest.get("created"),
        "Code": _revision(manifest.get("git_revision")),
        **{f"{name} version": value for name, value in (manifest.get("versions") or {}).items()},
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def settings(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Configurations in groups: of the victim, of the attack."""
    victim = manifest.get("victim")
    groups = {
        "Model": victim.get("config") if isinstance(victim, Mapping) else None,
        "Attack": manifest.get("config") or manifest.get("fit") or _mapping(manifest.get("attack")),
    }
    return [(name, _rows(told)) for name, told in groups.items() if told]


def _rows(told: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values; those of a group within carry its name."""
    rows: list[tuple[str, str]] = []
    for key, value in told.items():
        rows += _rows(value, f"{prefix}{key} ") if isinstance(value, Mapping) else [(f"{prefix}{key}", _told(value))]
    return rows


def _mapping(value: Any) -> Any:
    return value if isinstance(value, Mapping) else None


def _told(value: Any) -> str:
    return "automatic" if value in (None, "None") else str(value)


def _hash(value: Any) -> str | None:
    return None if value is None else f"hash {value}"


def _revision(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    plain = re.sub(r"\+$", "", text)
    return f"revision {plain}" + (", with changes that were not committed" if plain != text else "")
