"""Learned attributes: means are those of EmbeddingBag, waves see bends, what is missing learns its vector."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.functional import linear

from itemic.data import Ids, Table
from itemic.encoders.metadata import described, learned
from itemic.nn.attributes import Attributes, Said

COLUMNS = {
    "tags": [["red", "hot"], ["red"], [], ["red", "tin", "hot"], None],
    "price": [1.0, 2.0, 5.0, None, 7.0],
    "since": pa.array([0, 86_400_000, None, 5, 6], pa.timestamp("ms")),
}


def said_of(columns, weighting):
    items = Table.of(Ids([f"i{n}" for n in range(len(next(iter(columns.values()))))]), columns)
    features = learned(items, None, np.ones(len(items), bool), 1, "it")
    return features, described(features, items, weighting)


def reader(features, dim, **options):
    torch.manual_seed(0)
    bags = [len(feature.values) + 1 for feature in features if not feature.is_number]
    return Attributes(bags, sum(feature.width for feature in features if feature.is_number), dim, **options)


def test_a_vector_is_the_mean_of_its_values_and_its_numbers_through_one_layer():
    features, said = said_of(COLUMNS, "mean")
    read = reader(features, 6)
    nn.init.normal_(read.missing)
    tags, price, since = features
    bag = nn.EmbeddingBag.from_pretrained(read.tables[0].detach(), mode="mean")
    numbers = [[tags.values.index(tag) + 1 for tag in row] if row else [0] for row in COLUMNS["tags"]]
    mean = torch.cat([bag(torch.tensor([row])) for row in numbers])
    assert (price.width, since.width, said.numbers.shape) == (1, 7, (5, 8))
    x = torch.cat([mean, said.numbers.nan_to_num(0.0)], 1)
    expected = linear(x, read.joined.weight) + said.numbers.isnan().float() @ read.missing
    torch.testing.assert_close(read(said), expected)
    torch.testing.assert_close(read(said, torch.tensor([3, 0])), expected[[3, 0]])


def numbers_only(x):
    return Said([], torch.as_tensor(x, dtype=torch.float32)[:, None])


def trained(read, said, target, steps=300):
    head = nn.Linear(read.joined.out_features, 1)
    optimiser = torch.optim.Adam([*read.parameters(), *head.parameters()], lr=0.02)
    for _ in range(steps):
        loss = (head(read(said))[:, 0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def test_waves_learn_a_bend_that_a_line_cannot():
    x = torch.linspace(-2, 2, 64)
    torch.manual_seed(0)
    line, waves = (trained(Attributes([], 1, 16, waves=n), numbers_only(x), x.abs()) for n in (0, 8))
    assert waves < 0.05 * line


def test_what_is_missing_is_as_the_mean_until_it_learns_otherwise():
    x, target = torch.tensor([-1.0, 0.0, 1.0, torch.nan]), torch.tensor([-1.0, 0.0, 1.0, 5.0])
    read = Attributes([], 1, 4)
    before = read(numbers_only(x))
    torch.testing.assert_close(before[3], before[1])
    assert trained(read, numbers_only(x), target) < 1e-3
    after = read(numbers_only(x))
    assert (after[3] - after[1]).norm() > 0.1


def test_in_training_attributes_and_values_are_hidden_and_in_answering_none():
    features, said = said_of(COLUMNS, "none")
    hiding, dropping = reader(features, 4, unknown=1 - 1e-9), reader(features, 4, dropout=0.5)
    whole = reader(features, 4).train()(said)
    for read in (hiding, dropping):
        assert not torch.equal(read.train()(said), whole)
        assert torch.equal(read.eval()(said), whole)
    nothing = said.bags[0].times_rows(torch.tensor([2] * 5), hiding.tables[0])  # an item without tags
    expected = hiding.joined(torch.cat([nothing, said.numbers.nan_to_num(0.0)], 1))
    torch.testing.assert_close(hiding.train()(said), expected)
