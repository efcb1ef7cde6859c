"""The page of what each choice gains over random choices that cost as much of the task."""

from __future__ import annotations

from collections.abc import Sequence

from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.equal_loss import OUTSIDE, Gap, Price, gaps, prices
from s3lora.lab.study.markdown import NONE, OVER_ITEMS, grid, interval, markdown, page, under
from s3lora.lab.study.rows import Row, label

ABOUT = (
    "Refusal log-odds of a choice less those of random choices at the same held-out loss, at the"
    " loss that was measured for the choice: the line that it is held against goes through every"
    " module in place and the mean random draw at each share, and ends at the largest share. Above"
    " 0 is more refusal for the same loss. Only adapters are judged whose training lowered the"
    " held-out loss, at shares where random choices raise it again, both known to within half (the"
    " lower end of the interval is above half of the value): elsewhere there is no loss to trade,"
    " and the noise of the loss is worth as much refusal as the gain. A gap is of one"
    " adapter and is not averaged over adapters."
)


def equal_loss_page(rows: Sequence[Row], bootstrap: Bootstrap) -> str:
    """What there is to trade by adapter, then the gaps on each that has some."""
    on_sale = prices(rows, bootstrap)
    tables = {"What there is to trade, in nats per token": under(_prices(on_sale), OVER_ITEMS)}
    found = gaps(rows, bootstrap)
    for price in on_sale:
        among = [one for one in found if one.adapter == price.adapter]
        if price.shares and among:
            note = f"{NONE}: not measured, no loss to trade, or {OUTSIDE}. {OVER_ITEMS}"
            tables[f"{price.adapter}: refusal over random at equal loss, in nats, by share"] = (
                under(_gaps(among, price.shares), note)
            )
    return page("At equal loss", ABOUT, tables)


def _prices(among: Sequence[Price]) -> str:
    shares = list(dict.fromkeys(share for price in among for share in price.random))
    rows = max((price.learned.n for price in among), default=0)
    heads = ["adapter", f"learned in training (n={rows})"]
    heads += [f"given up by {share:.0%} at random" for share in shares]
    body = [
        [
            price.adapter,
            interval(price.learned, 3, "+"),
            *(interval(price.random.get(share), 3, "+") for share in shares),
            ", ".join(f"{share:.0%}" for share in price.shares) or "no",
        ]
        for price in among
    ]
    return markdown([*heads, "judged at"], body)


def _gaps(among: Sequence[Gap], shares: Sequence[float]) -> str:
    table = {
        (label(one.method, one.edit), f"{share:.0%}"): None for one in among for share in shares
    } | {
        (label(one.method, one.edit), f"{one.share:.0%}"): one.gap
        for one in among
        if one.share in shares
    }
    return grid("method", table)
