"""The whole path in five lines of the library, on the adapter that the package ships.

python examples/scan_and_prune.py OUT
"""

import sys
from importlib.resources import files

from s3lora import TopK, open_adapter, prune, scan

adapter = open_adapter(str(files("s3lora") / "example" / "adapter"))
table = scan(adapter, "s3lora")
chosen = TopK(17)(table)
pruned = prune(adapter, chosen, sys.argv[1], table=table, policy=TopK(17))

for score in table.ranked()[:5]:
    print(f"{score.value:.3f}  {score.module}")
print(f"{len(adapter.names)} modules before, {len(pruned.names)} after")
