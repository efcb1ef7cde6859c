"""What a config says of the modules of one file: rank, scale, and whether PEFT adapts them at all.

The rules are those of PEFT's `check_target_module_exists`, `get_pattern_key` and
`_inject_parameters`, asked of the modules that the file carries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from s3lora.adapter import ModuleName
from s3lora.findings import Finding
from s3lora.io.config_fields import shown
from s3lora.io.patterns import Matcher, endings
from s3lora.io.peft_config import PeftConfig

_T = TypeVar("_T")

OUTPUT_LAYERS = ("lm_head", "embed_out")
"""What output layers of language models are called: `all-linear` leaves them out."""

PARAMETERS = ("weight", "bias")
"""No module is called so; PEFT leaves the words in `target_modules` where it turns an expression
into parameters of experts."""
TIED = frozenset(("embed_tokens", "lm_head"))
"""What PEFT calls the layers that share their weight in many models."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config's answers for the modules of one file."""

    scaling: Mapping[str, float]
    """s by module."""
    rank: Mapping[str, int]
    """r by module, as the config has it."""
    targeted: frozenset[str]
    """The modules that PEFT would adapt by `target_modules`."""
    ties: bool
    """Whether PEFT would adapt what shares its weight with a targeted embedding too."""
    dead: frozenset[str]
    """The rank and alpha patterns that match no module."""
    findings: tuple[Finding, ...]
    """Targets and patterns that match no module."""


def resolve(
    config: PeftConfig,
    names: Sequence[ModuleName],
    matcher: Matcher | None = None,
    saved: Collection[str] = (),
) -> Resolved:
    """Ask the config for the rank, scale and targeting of every module at once.

    Args:
        config: The validated config.
        names: The modules as the config knows them: of a stack of experts the parameter, of the
            output projection of an `nn.MultiheadAttention` the attention itself.
        matcher: One in use already, whose time the patterns then share.
        saved: The modules that the file has because of `modules_to_save`, which are not adapted.

    Raises:
        AdapterError: if the patterns are invalid or take too long.
    """
    matcher = matcher or Matcher()
    keys = dict.fromkeys([*config.ranks, *config.alphas])
    matches = matcher.keys(keys, names)
    ranks = _first_match(config.ranks, matches, names)
    alphas = _first_match(config.alphas, matches, names)
    rank: dict[str, int] = {name: ranks.get(name, config.r) for name in names}
    chosen = _chosen(config, names, matcher)
    dead = [key for key in keys.keys() - matches.keys() if key not in rank]
    return Resolved(
        scaling={
            name: alphas.get(name, config.alpha) / (math.sqrt(r) if config.rslora else r)
            for name, r in rank.items()
        },
        rank=rank,
        targeted=frozenset(chosen - _left_out(config, names, matcher)),
        ties=_ties(config, matcher),
        dead=frozenset(dead),
        findings=(*_dead_patterns(dead), *_missing_targets(config, names, chosen, matcher, saved)),
    )


def targeted_modules(
    config: PeftConfig, names: Sequence[ModuleName], matcher: Matcher
) -> frozenset[str]:
    """The modules that `target_modules` picks and nothing takes out again.

    Raises:
        AdapterError: if the expressions are invalid or take too long.
    """
    return frozenset(_chosen(config, names, matcher) - _left_out(config, names, matcher))


def _first_match(
    pattern: Mapping[str, _T], matches: Mapping[str, set[str]], names: Iterable[str]
) -> dict[str, _T]:
    """For each module the value of the first key that matches it, as PEFT picks it.

    A module that no key matches is looked up by its name: a key that is this very name counts even
    where, read as an expression, it would not match.
    """
    picked: dict[str, _T] = {}
    for key, value in pattern.items():
        for name in matches.get(key, ()):
            picked.setdefault(name, value)
    for name in names if pattern else ():
        if name not in picked and name in pattern:
            picked[name] = pattern[name]
    return picked


def _chosen(config: PeftConfig, names: Sequence[str], matcher: Matcher) -> set[str]:
    """The modules that `target_modules` picks, before any is left out."""
    if config.targets is None:
        return set() if config.parameters else set(names)
    if config.every_linear:
        return {*names} - _ending_in(OUTPUT_LAYERS, names)
    if isinstance(config.targets, str):
        return matcher.whole(config.targets, names)
    exact = frozenset(config.targets)
    picked = _ending_in(exact, names)
    if config.layers is None:
        return picked
    with matcher.timed():
        return {name for name in picked if name in exact or _in_layers(config, name, matcher)}


def _ending_in(wanted: Collection[str], names: Iterable[str]) -> set[str]:
    """The names that are one of those wanted, or end in one after a dot."""
    known = frozenset(wanted)
    return {name for name in names if not known.isdisjoint(endings(name))} if known else set()


def _left_out(config: PeftConfig, names: Sequence[str], matcher: Matcher) -> set[str]:
    """The modules that `exclude_modules` names, and those in or below one of `modules_to_save`."""
    below: set[str] = set().union(*matcher.plain(config.saved, names, within=True).values())
    if isinstance(config.excluded, str):
        return below | matcher.whole(config.excluded, names)
    return below | _ending_in(config.excluded, names)


def _in_layers(config: PeftConfig, name: str, matcher: Matcher) -> bool:
    """Whether the module's layer is among `layers_to_transform`."""
    if not config.layer_lists:
        match = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    else:
        matcher.refuse_late(config.layer_lists)
        tries = (re.match(rf"(?:^|.*?\.){one}\.(\d+)\.", name) for one in config.layer_lists)
        match = next(filter(None, tries), None)
    return match is not None and int(match[1]) in (config.layers or ())


def _dead_patterns(keys: Iterable[str]) -> list[Finding]:
    text = "this rank or alpha pattern matches no module"
    return [Finding("dead-pattern", "low", shown(key), text) for key in sorted(keys)]


def _ties(config: PeftConfig, matcher: Matcher) -> bool:
    """Whether `ensure_weight_tying` reaches `target_modules`.

    PEFT asks whether a target is called `embed_tokens` or `lm_head`, whatever the base model calls
    them; where one of `modules_to_save` is, it ties those alone.
    """
    if not config.raw.get("ensure_weight_tying"):
        return False
    if any(name.rpartition(".")[2] in TIED for name in config.saved):
        return False
    if isinstance(config.targets, str):
        return not config.every_linear and bool(matcher.whole(config.targets, sorted(TIED)))
    return any(name.rpartition(".")[2] in TIED for name in config.targets or ())


def _missing_targets(
    config: PeftConfig,
    names: Sequence[str],
    chosen: Collection[str],
    matcher: Matcher,
    saved: Collection[str],
) -> list[Finding]:
    """What `target_modules` and `target_parameters` name and the file does not carry."""

    def missing(where: str, field: str) -> Finding:
        text = f"{field} names it, but the file carries no such module"
        return Finding("missing-module", "medium", shown(where), text)

    targets = () if isinstance(config.targets, str) else config.targets or ()
    wanted = frozenset((*targets, *config.parameters))
    carried = {ending for name in names for ending in endings(name) if ending in wanted}
    absent = [target for target in targets if target not in carried]
    whole = {ending for name in saved for ending in endings(name)}
    explained = whole.union(PARAMETERS, _explained(config, absent, matcher))
    rows = [missing(target, "target_modules") for target in absent if target not in explained]
    if isinstance(config.targets, str) and not chosen and not config.every_linear:
        rows.append(missing(config.targets, "target_modules"))
    return rows + [missing(p, "target_parameters") for p in config.parameters if p not in carried]


def _explained(config: PeftConfig, absent: Sequence[str], matcher: Matcher) -> Collection[str]:
    """The targets that the file rightly lacks, or may: the config takes them out again.

    Which modules end in a target is the base model's to say. Where `exclude_modules` is an
    expression, or names modules that end in the target, it may be all of them; so it may where
    only some layers are adapted, or others are in their places.
    """
    replicated = bool(config.raw.get("layer_replication"))
    if isinstance(config.excluded, str) or config.layers is not None or replicated:
        return frozenset(absent)
    longer = {ending for name in config.excluded for ending in endings(name)}
    return _left_out(config, absent, matcher) | longer.intersection(absent)
