"""What a study file may say, checked by pydantic before anything runs.

    name: quick
    claim: Sight makes hearing more robust.            # in words
    thesis: chapter 10
    victims: {ast: {}, av-mid: {weights: my.safetensors}}
    data: {events: {limit: 64}}
    conditions:
      linf: {kind: curve, norm: linf, eps: 1e-5:1e-2:12, steps: 20}
    seeds: [0]
    claims:
      - {text: "av-mid[linf].robust@0.0003 > ast[linf].robust@0.0003"}

Every victim meets every condition on every data set under every seed; a condition may name the `victims` and `data` it
is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robust.errors import unknown
from robust.study import groups
from robust.study.conditions import AnyCondition
from robust.study.source import Source, StudyError
from robust.victims.registry import is_registered

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*")
LONGEST_NAME = 60
Correction = Literal["holm", "bonferroni", "benjamini-hochberg", "none"]


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Defended(Strict):
    """Against what a victim is trained; see `robust.training_defense.TrainingDefense`."""

    name: str
    modality: str | None = None
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: float | dict[str, float] | None = None
    unit: str | dict[str, str] = "amplitude"
    stop_on: Literal["clean", "robust"] | None = None
    validation_steps: int = Field(10, ge=1)
    validation_clips: int = Field(128, ge=1)
    options: dict[str, Any] = {}


class Training(Strict):
    """How a victim is trained where its weights are not there yet; see `robust train`.

    `clips` may be a mapping by data set of the study; those that it leaves out have their usual number.
    """

    epochs: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    mixup: float | None = Field(None, ge=0)
    batch_size: int = Field(32, ge=1)
    init: str | None = None
    half: bool = False
    patience: int | None = Field(None, ge=1)
    clips: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] | None = None
    augment: list[str] = []
    config: dict[str, Any] = {}
    defense: Defended | None = None


class VictimEntry(Strict):
    """One victim. Filled in `weights`: `{victim}`, `{data}`, `{seed}`, and `{set}`, the data's registered name.

    A mapping names weights by data set of the study; on those that it leaves out the victim has its embedded ones.
    `seeds` are those of the study's under which this victim is taken; all if absent.
    """

    model: str | None = None
    weights: str | dict[str, str] | None = None
    train: Training | None = None
    seeds: list[int] | None = Field(None, min_length=1)


def _not_of_the_entry(given: dict[str, Any]) -> dict[str, Any]:
    for name in ("set", "name", "split", "root", "limit"):
        if name in given:
            raise ValueError(f"{name} is a key of the data set itself, not an option")
    return given


class DataEntry(Strict):
    """One data set, as of `robust attack --data`; `set` is its registered name, the entry's own if absent."""

    set: str | None = None
    split: str = "test"
    root: str | None = None
    limit: int | None = Field(None, ge=1)
    options: Annotated[dict[str, Any], AfterValidator(_not_of_the_entry)] = {}


class Claim(Strict):
    """Something that the study is to decide: a comparison in `text`, the same in `words`; see `robust.study.claims`."""

    text: str
    name: str | None = None
    words: str = ""
    condition: str | None = None
    data: str | None = None


def _or_empty(given: Any) -> Any:
    """`ast:` with nothing behind it is an entry that leaves everything as it is."""
    return {} if given is None else given


class Study(Strict):
    """A whole study file."""

    name: str
    title: str = ""
    thesis: str = ""
    claim: str = ""
    victims: dict[str, Annotated[VictimEntry, BeforeValidator(_or_empty)]] = Field(min_length=1)
    data: dict[str, Annotated[DataEntry, BeforeValidator(_or_empty)]] = Field(min_length=1)
    conditions: dict[str, Annotated[AnyCondition, Field(discriminator="kind")]] = Field(min_length=1)
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    claims: list[Claim] = []
    resources: dict[str, float] = {}
    correction: Correction = "holm"
    level: float = Field(0.05, gt=0, lt=1)

    def seeds_of(self, victim: str) -> list[int]:
        """Under which seeds a victim is taken, in the study's order."""
        own = self.victims[victim].seeds
        return [seed for seed in self.seeds if own is None or seed in own]


def read_study_file(path: str | Path) -> tuple[Study, Source]:
    """The study in a YAML file.

    Raises:
        StudyError: With the line and a suggestion, for anything that it may not say.
    """
    source = Source.read(Path(path))
    return check_study(source), source


def check_study(source: Source) -> Study:
    """The study that a source holds, checked as far as it can be without victims and data."""
    try:
        study = Study.model_validate(source.content)
    except ValidationError as error:
        raise _first_mistake(error, source) from None
    _check_names(study, source)
    _check_groups(study, source)
    for name, condition in study.conditions.items():
        for group in ("victims", "data"):
            for place, wanted in enumerate(getattr(condition, group) or []):
                if wanted not in getattr(study, group):
                    told = unknown(group.removesuffix("s"), wanted, getattr(study, group))
                    raise source.error(("conditions", name, group, place), told)
    for name, entry in study.victims.items():
        _check_training(name, entry, source)
    return study


def _check_groups(study: Study, source: Source) -> None:
    """Groups are of victims of the study, and have names of their own."""
    for name, members in study.groups.items():
        for place, member in enumerate(members):
            if member not in study.victims:
                raise source.error(("groups", name, place), unknown("victim", member, study.victims))
    wrong = groups.mistake(study.groups, list(study.victims))
    if wrong is not None:
        raise source.error(*wrong)


def _check_training(name: str, entry: VictimEntry, source: Source) -> None:
    """What is trained here is a registered model, and its weights go into a file of the right name."""
    if entry.train is None:
        return
    place = ("victims", name, "train")
    if entry.weights is None:
        raise source.error(place, f"{name} is trained, so it needs `weights`: where they go.")
    files = [entry.weights] if isinstance(entry.weights, str) else list(entry.weights.values())
    for path in files:
        if not path.endswith(".safetensors"):
            raise source.error(("victims", name, "weights"), f"weights go into FILE.safetensors; given {path!r}.")
    if ":" in (entry.model or "") and not is_registered(entry.model or ""):
        raise source.error(place, f"only models of `robust victims` are trained here; {name} is {entry.model!r}.")


def _check_names(study: Study, source: Source) -> None:
    """Names become parts of paths and of claims."""
    places = [(group, name) for group in ("victims", "data", "conditions", "groups") for name in getattr(study, group)]
    for place, name in [(("name",), study.name), *((place, place[1]) for place in places)]:
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            allowed = f"up to {LONGEST_NAME} letters, digits, single - and _, and begins with a letter or digit"
            raise source.error(place, f"a name has {allowed}; given {name!r}.")
    if len(set(study.seeds)) < len(study.seeds):
        raise source.error(("seeds",), f"each seed once; given {study.seeds}.")
    for name, entry in study.victims.items():
        if entry.seeds is not None and (len(set(entry.seeds)) < len(entry.seeds) or set(entry.seeds) - {*study.seeds}):
            told = f"some of the study's seeds {study.seeds}, each once; given {entry.seeds}."
            raise source.error(("victims", name, "seeds"), told)


def _first_mistake(error: ValidationError, source: Source) -> StudyError:
    """Pydantic's first complaint in our words, with line and suggestion."""
    found = min(error.errors(), key=lambda one: source.line(_place(one["loc"], source)))
    place, said = _place(found["loc"], source), found["msg"]
    where = ".".join(str(part) for part in place)
    if found["type"] == "extra_forbidden":
        allowed = _fields_beside(place, source)
        return source.error(
            place, f"in {'.'.join(map(str, place[:-1])) or 'the study'}: " + unknown("key", place[-1], allowed)
        )
    if found["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = _kinds()
        given = (source.content["conditions"][place[1]] or {}).get("kind")
        if given is None:
            return source.error(place, f"{where} has no kind. Allowed: {', '.join(sorted(kinds))}.")
        return source.error((*place, "kind"), f"in {where}: " + unknown("kind", given, kinds))
    if found["type"] == "missing":
        return source.error(place[:-1], f"{'.'.join(map(str, place[:-1])) or 'the study'} lacks the key {place[-1]!r}.")
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        words = re.findall(r"'([^']*)'", said)
        return source.error(place, f"in {where}: " + unknown(str(place[-1]), found["input"], words))
    if found["type"] == "too_short":
        return source.error(place, f"{where} is empty: the grid would have no cell.")
    said = said.removeprefix("Value error, ")
    if said.endswith("."):
        return source.error(place, f"in {where}: {said}")
    given = "" if isinstance(found["input"], dict) else f"; given {found['input']!r}"
    return source.error(place, f"{where}: {said}{given}.")


def _place(loc: tuple[str | int, ...], source: Source) -> tuple[str | int, ...]:
    """Pydantic's place without the tags it puts in between (the kind of a condition)."""
    found: list[str | int] = []
    content = source.content
    for number, part in enumerate(loc):
        inside = isinstance(content, dict) and part in content
        inside = inside or (isinstance(content, list) and isinstance(part, int) and part < len(content))
        if inside:
            found.append(part)
            content = content[part]
        elif number == len(loc) - 1 and not (isinstance(part, str) and part in _kinds() and len(loc) <= 3):
            found.append(part)
    return tuple(found)


def _kinds() -> Mapping[str, type[BaseModel]]:
    from robust.study.conditions import KINDS

    return KINDS


def _fields_beside(place: tuple[str | int, ...], source: Source) -> list[str]:
    """Keys that would have been right where a wrong one stands."""
    if len(place) == 1:
        return list(Study.model_fields)
    group: dict[str | int, type[BaseModel]] = {"data": DataEntry, "victims": VictimEntry, "claims": Claim}
    if place[0] == "conditions":
        kind = source.content["conditions"][place[1]].get("kind")
        return list(_kinds()[kind].model_fields)
    if place[0] == "victims" and len(place) > 3:
        return list(Training.model_fields)
    return list(group[place[0]].model_fields)
