"""Running a study: one cell after the other, each kept as soon as it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from s3lora.lab.chat import asked_ids
from s3lora.lab.generate import replies
from s3lora.lab.metrics.refusal import refused
from s3lora.lab.models import Chat, load_chat, refuse_absent
from s3lora.lab.study.causal import causal_rows, rescored, unscored
from s3lora.lab.study.cells import Job, jobs
from s3lora.lab.study.config import Sizes, Study, Trained
from s3lora.lab.study.costs import COSTS, write_costs
from s3lora.lab.study.keeping import append_row, read_causal, read_rows
from s3lora.lab.study.rows import Replies, Row
from s3lora.lab.study.stand import Asked, Stand, stand_for
from s3lora.lab.study.workshop import Say, Workshop

ROWS, CAUSAL = "rows.jsonl", "causal.jsonl"

Progress = Callable[[int, int, str], None]
"""Takes how many cells are done, of how many, and what the last of them measured."""


class Run:
    """A study with its models loaded, and what of it is done."""

    def __init__(self, study: Study, say: Say, progress: Progress | None = None) -> None:
        self.study = study
        self.say = say
        self.progress = progress or (
            lambda count, total, note: say(f"cell {count} of {total}: {note}")
        )
        refuse_absent(study.model)
        self.shop = Workshop(study, say)
        self.out = study.results / ROWS
        self.rows = {row.key: row for row in read_rows(self.out)}
        self.done, self.total = self._counts()
        self.adapters = {t.name: self.shop.adapter(t) for t in study.adapters}
        self.aligned = load_chat(str(self.shop.aligned()))
        self.base = load_chat(study.model)
        self.hosts = {"": self.aligned}
        self.bare: list[tuple[Chat, Asked, Replies]] = []

    def _counts(self) -> tuple[int, int]:
        """How many cells are done, and how many there are; replies are a cell of their own."""
        every = [job for share in self.study.shares for job in jobs(self.study, share)]
        found = [(job, self._row(trained, job)) for trained in self.study.adapters for job in every]
        told = sum(
            job.replies and row is not None and row.replies is not None for job, row in found
        )
        total = len(found) + sum(job.replies for job, _ in found)
        return sum(row is not None for _, row in found) + told, total

    def stand(self, trained: Trained) -> Stand:
        """The aligned model with an adapter at hand."""
        shop, adapter = self.shop.after(trained), self.adapters[trained.name]
        if trained.aligned not in self.hosts:
            self.hosts[trained.aligned] = load_chat(str(shop.aligned()))
        return stand_for(shop, trained, adapter, self.hosts[trained.aligned])

    def chat(self, stand: Stand, job: Job) -> Chat:
        """The model that a cell asks."""
        return self.base if job.choice.name == "base" else stand.chat

    def cells(self, share: float, *, core: bool) -> None:
        """Measure what has no row yet at one share, adapter by adapter: the core or the rest."""
        for trained in self.study.adapters:
            every = [job for job in jobs(self.study, share) if job.core is core]
            wanted = [job for job in every if self._row(trained, job) is None]
            for stand, job in self._at(trained, wanted):
                if share != self.study.shares[0]:
                    stand = replace(stand, probe=replace(stand.probe, harmless=()))
                self._keep(measured(stand, job, self.chat(stand, job), self._alike(stand, job)))

    def replies(self) -> None:
        """Write the replies that the main table lacks, one more row for each."""
        told = [job for job in jobs(self.study, self.study.shares[0]) if job.replies]
        for trained in self.study.adapters:
            wanted = [j for j in told if (row := self._row(trained, j)) and row.replies is None]
            for stand, job in self._at(trained, wanted):
                left = stand.chooser.left(job, stand.chooser.chosen(job))
                stand.patched.apply(left)
                said = self._said(self.chat(stand, job), stand.asked, bare=not left)
                self._keep(replace(self.rows[key(trained, job)], replies=said))

    def _said(self, chat: Chat, asked: Asked, *, bare: bool) -> Replies:
        """The replies of a model; without any update, those it gave to these prompts before."""
        before = [told for of, to, told in self.bare if of is chat and to == asked]
        if bare and before:
            return before[0]
        told = answered(chat, asked, self.study.sizes)
        if bare:
            self.bare.append((chat, asked, told))
        return told

    def causal(self) -> None:
        """Measure what each module does, and add the scores of choices that are new."""
        out, choices = self.study.results / CAUSAL, self.study.choices
        done = read_causal(out)
        for trained in self.study.adapters:
            rows = [row for row in done if row.adapter == trained.name]
            whole = len(rows) == len(self.adapters[trained.name].names)
            new = unscored(choices, rows)
            if whole and not new:
                continue
            self.say(f"{trained.name}: {'scores' if whole else 'effects'} of single modules")
            stand = self.stand(trained)
            for row in list(
                rescored(stand, new, rows) if whole else causal_rows(stand, self.study)
            ):
                append_row(out, row)
            stand.patched.apply(())

    def _row(self, trained: Trained, job: Job) -> Row | None:
        return self.rows.get(key(trained, job))

    def _at(self, trained: Trained, wanted: Sequence[Job]) -> Iterator[tuple[Stand, Job]]:
        if not wanted:
            return
        self.say(f"{trained.name}: {len(wanted)} cells")
        stand = self.stand(trained)
        for job in wanted:
            yield stand, job
        stand.patched.apply(())

    def _alike(self, stand: Stand, job: Job) -> Row | None:
        """A row that asked the same model: with the same modules dropped, or without adapter."""
        if job.choice.name in ("base", "aligned"):
            return self._bare(stand.trained, job)
        if job.choice.edit != "drop":
            return None
        names, chosen = stand.chooser.adapter.names, set(stand.chooser.chosen(job))
        places = tuple(at for at, name in enumerate(names) if name in chosen)
        for row in self.rows.values():
            same = (row.adapter, row.edit, row.chosen) == (stand.trained.name, "drop", places)
            if same and row.method != "base":
                return row
        return None

    def _bare(self, trained: Trained, job: Job) -> Row | None:
        """The row of the same model without adapter, for an adapter that is asked the same."""
        for other in self.study.adapters:
            asked = (other.recipe, other.openings) == (trained.recipe, trained.openings)
            same = job.choice.name == "base" or other.aligned == trained.aligned
            if asked and same and (row := self._row(other, job)):
                return row
        return None

    def _keep(self, row: Row) -> None:
        append_row(self.out, row)
        self.rows[row.key] = row
        self.done += 1
        self.progress(self.done, self.total, told(row))


def key(trained: Trained, job: Job) -> tuple[str, str, str, float, int | None]:
    """The key of a cell's row."""
    return (trained.name, *job.key)


def run(study: Study, say: Say = print, progress: Progress | None = None) -> None:
    """Run every part of a study that is not done yet, what answers most first.

    The main table's cells, effects of modules, other shares, replies, then the ablations. If the
    study is about defences, what trainings took comes first, and effects of modules are left out:
    it compares trainings, not modules.

    The rows go to `rows.jsonl` and `causal.jsonl` beside the study's file, one line of JSON each. A
    run that is killed loses the cell it is at, and goes on there when it is started again.

    Args:
        study: From `read_study`.
        say: Takes a line about what is being done.
        progress: Takes every cell; first what earlier runs did, without a note. None: `say` does.
    """
    going = Run(study, say, progress)
    if progress:
        progress(going.done, going.total, "")
    if study.defended:
        write_costs(study.results / COSTS, going.shop.costs())
        going.shop.keep_plots()
    going.cells(study.shares[0], core=True)
    if not study.defended:
        going.causal()
    for share in study.shares[1:]:
        going.cells(share, core=True)
    going.replies()
    for share in study.shares:
        going.cells(share, core=False)


def told(row: Row) -> str:
    """A row in one line."""
    loss = sum(a * b for a, b in zip(row.losses, row.tokens, strict=True)) / sum(row.tokens)
    odds = sum(row.log_odds) / len(row.log_odds)
    draw = "" if row.draw is None else f" {row.draw}"
    said = ""
    if row.replies:
        hits = sum(bool(refused) for refused in row.replies.harmful_refused)
        over = sum(bool(refused) for refused in row.replies.harmless_refused)
        said = f", refuses {hits} harmful and {over} harmless"
    return (
        f"{row.adapter} {row.method}{draw} {row.edit} {row.share:g}: refusal log-odds {odds:.2f}, "
        f"loss {loss:.3f}{said}, {row.seconds:.1f} s"
    )


def measured(stand: Stand, job: Job, chat: Chat, alike: Row | None = None) -> Row:
    """Run one cell; where a row has asked the same model, its figures are taken over."""
    chosen = stand.chooser.chosen(job)
    names = stand.chooser.adapter.names
    taken = set(chosen)
    own: dict[str, Any] = {
        "adapter": stand.trained.name,
        "method": job.choice.name,
        "edit": job.choice.edit,
        "share": job.share,
        "draw": job.draw,
        "k": len(chosen),
        "modules": len(names),
        "chosen": tuple(at for at, name in enumerate(names) if name in taken),
        "replies": None,
    }
    if alike:
        return replace(alike, **own)
    left = stand.chooser.left(job, chosen)
    stand.patched.apply(left)
    started = time.perf_counter()
    figures = stand.probe.measure(chat.model)
    return Row(
        **own,
        norm_share=round(stand.chooser.norm_share(left), 6),
        log_odds=_rounded(figures.log_odds),
        margins=_rounded(figures.margins),
        losses=_rounded(figures.losses),
        tokens=stand.probe.tokens,
        benign_log_odds=_rounded(figures.benign_log_odds),
        benign_margins=_rounded(figures.benign_margins),
        seconds=round(time.perf_counter() - started, 2),
    )


def answered(chat: Chat, asked: Asked, sizes: Sizes) -> Replies:
    """How the keyword scorer takes the greedy replies."""
    started = time.perf_counter()
    prompts = [asked_ids(chat.tokenizer, example) for example in (*asked[0], *asked[1])]
    verdicts = tuple(refused(reply.text) for reply in replies(chat, prompts, sizes.new_tokens))
    harmful, harmless = verdicts[: len(asked[0])], verdicts[len(asked[0]) :]
    return Replies(harmful, harmless, round(time.perf_counter() - started, 1))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
