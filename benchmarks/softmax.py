"""Peak memory and seconds of CPU of the full softmax over a million items, both ways, beside the logits it spares.

    python benchmarks/softmax.py                      # 512 and 2,048 tokens, d = 64; the table is 256 MB

Each number of tokens is measured in a process of its own; memory is the highest it held above what it held with torch
loaded and the table and the states made. A matrix of all logits, which is never made, would take tokens x items x 4
bytes, and a plain cross-entropy holds three of them: logits, their logarithms of shares, and their gradients.
"""

import json
import sys
import time

from length import conditions, each, peak

ITEMS, DIM = 1_000_000, 64
TOKENS = (512, 2048)


def measure(n_tokens: int) -> dict[str, float]:
    import torch

    from itemic import threads
    from itemic.nn.losses.softmax import table_cross_entropy

    threads.apply()
    torch.manual_seed(0)
    table = torch.randn(ITEMS, DIM).mul_(0.05).requires_grad_()
    x, target = torch.randn(n_tokens, DIM, requires_grad=True), torch.randint(ITEMS, (n_tokens,))
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the first product of all loads is not the loss's
    before, start = peak(), time.process_time()
    table_cross_entropy(x, table, target).backward()
    return {"megabytes": (peak() - before) / 1e6, "seconds": time.process_time() - start}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    print(f"{ITEMS:,} items, d = {DIM}; {conditions()}")
    print(f"{'tokens':>8}{'peak, MB':>10}{'logits, MB':>12}{'CPU, s':>9}")
    for n_tokens, found in each(__file__, TOKENS):
        logits = 4 * n_tokens * ITEMS / 1e6
        print(f"{n_tokens:>8,}{found['megabytes']:>10.0f}{logits:>12,.0f}{found['seconds']:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
