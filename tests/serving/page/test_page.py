"""The page as people use it, in Chromium; `flows.mjs` does the walking."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from itemic.data import Table
from itemic.serving.keys import new_key

HERE = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
FLOWS = re.findall(r"^  async (\w+)\(", (HERE / "flows.mjs").read_text(), re.MULTILINE)
FLOWS += [f"nothing_is_amiss_for_axe_in_the_{scheme}" for scheme in ("light", "dark")]
HOSTILE = "<img src=x onerror=alert(1)>"
"""The title of the last item."""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
"""A white pixel."""
MEASURED = {
    "dataset": "planted", "split": "time", "protocol": "full ranking", "queries": 60, "baseline": "popularity",
    "systems": [
        {
            "name": name, "system": name, "coverage@20": 0.5, "fit_seconds": 1.5,
            "metrics": {metric: {"mean": mean, "low": mean / 2, "high": mean * 1.5, "against": against}
                        for metric, mean in (("ndcg@10", ndcg), ("recall@20", ndcg + 0.1))},
        }
        for name, ndcg, against in (
            ("itemknn", 0.2, {"difference": 0.1, "relative": 1.0, "p": 0.0001}),
            ("popularity", 0.1, None),
        )
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def walked(serving_at, models, tmp_path_factory):
    """What was wrong with each flow."""
    if NODE is None or CHROMIUM is None or not (HERE / "node_modules").is_dir():
        pytest.skip("needs node, chromium and npm packages: npm ci --prefix tests/serving/page")
    place = tmp_path_factory.mktemp("page")
    (place / "comparison.json").write_text(json.dumps(MEASURED))
    folders = {name: str(place / name) for name in models}
    with (
        serving_at(place / "open.db", items=items_of(models), models=folders) as shop,
        serving_at(place / "locked.db", items=items_of(models)) as locked,
    ):
        told = {"chromium": CHROMIUM, "open": shop.url, "locked": locked.url, "pictures": str(place)}
        told["key"] = new_key(locked.service.store, "page", "read")
        command = [NODE, HERE / "flows.mjs"]
        done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def items_of(models):
    """The items of the models with colours, prices, pictures of some and a title that would do harm as HTML."""
    items = models["itemknn"].catalogue.items
    n = len(items)
    titles = [*items.titles(np.arange(n - 1)), HOSTILE]
    columns = {
        "title": titles,
        "group": pa.array([str(row % 4) for row in range(n)]),
        "colour": [("red", "green", "blue", "black")[row // 4 % 4] for row in range(n)],
        "price": [row / 2 for row in range(n)],
        "image": pa.array([PICTURE if row % 3 else None for row in range(n)], pa.binary()),
    }
    return Table(items.ids, pa.table(columns), {"title": ["title"], "text": ["title"], "image": ["image"]})


@pytest.mark.parametrize("flow", FLOWS)
def test_in_a_browser(walked, flow):
    assert walked[flow] is None, walked[flow]


def test_every_flow_is_told(walked):
    assert sorted(walked) == sorted(FLOWS)
