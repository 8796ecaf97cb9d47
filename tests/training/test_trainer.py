"""The training loop on toy modules: every option has a test in which it matters."""

import copy
import json
import math
from itertools import chain, pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import mse_loss

from itemic.errors import ConfigError, DataError, TrainingDiverged
from itemic.progress import listening
from itemic.training import Hooks, Stage, Trainer, TrainingConfig, shuffled


def config(**options):
    return TrainingConfig(**{"lr": 0.1, "epochs": 2, "optimizer": "sgd", "metric": "quality@1", **options})


def line(weight=1.0):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, weight)
    return module


def slope(module):
    """A loss whose gradient is the batch, so that a step of sgd moves the weight by lr times the batch."""
    return lambda x: {"slope": (module.weight * x).sum()}


def moves(training, batches):
    """By how much each step changed the weight, with batches of 1: the step sizes."""
    module = line(0.0)
    seen = [0.0]
    hooks = Hooks(on_step=lambda step: seen.append(module.weight.item()))
    Trainer(module, [Stage("toy", training, batches, slope(module))], hooks).fit()
    return [before - after for before, after in pairwise(seen)]


ONES = [torch.ones(1, 1)] * 3


def test_a_constant_schedule_after_a_warmup():
    assert moves(config(warmup=4), lambda rng: ONES) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_schedules_fall_step_by_step_where_the_number_of_batches_is_known():
    linear = [0.1 * (1 - n / 6) for n in range(6)]
    cosine = [0.1 * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]
    assert moves(config(schedule="linear"), lambda rng: ONES) == pytest.approx(linear)
    assert moves(config(schedule="cosine"), lambda rng: ONES) == pytest.approx(cosine)
    assert moves(config(schedule="linear", warmup=2), lambda rng: ONES) == pytest.approx([0.05, 0.1, *linear[2:]])


def test_8_a_schedule_by_the_root_falls_fast_at_first_and_each_ends_at_its_floor():
    sqrt = [0.1 * (1 - math.sqrt(n / 6)) for n in range(6)]
    assert moves(config(schedule="sqrt"), lambda rng: ONES) == pytest.approx(sqrt)
    assert moves(config(schedule="sqrt", floor=0.5), lambda rng: ONES) == pytest.approx([0.05 + s / 2 for s in sqrt])
    linear = [0.1 * (0.2 + 0.8 * (1 - n / 6)) for n in range(6)]
    assert moves(config(schedule="linear", floor=0.2), lambda rng: ONES) == pytest.approx(linear)


def test_8_stages_that_go_on_with_an_optimiser_make_a_trapezoid_without_a_jump():
    """Warm-up, flat, 1 - sqrt down to half, and from there down to a fiftieth, as Ettin is trained."""
    module, sizes = line(0.0), []
    warm = {"lr": 1.0, "epochs": 1}
    parts = [
        ("flat", config(**warm, warmup=4), 10),
        ("extend", config(**warm, schedule="sqrt", floor=0.5), 400),
        ("decay", config(lr=0.5, epochs=1, schedule="sqrt", floor=0.04), 400),
    ]
    stages = [
        Stage(
            name,
            how,
            lambda rng, n=n: [torch.ones(1, 1)] * n,
            slope(module),
            continues="flat" if name != "flat" else None,
        )
        for name, how, n in parts
    ]
    trainer = Trainer(
        module, stages, Hooks(on_step=lambda step: sizes.append(trainer.optimizers["flat"].param_groups[0]["lr"]))
    )
    trainer.fit()
    assert list(trainer.optimizers) == ["flat"]
    assert sizes[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert sizes[9] == sizes[10] == 1.0
    assert sizes[409] == pytest.approx(0.5, abs=1e-3)
    assert sizes[410] == 0.5
    assert sizes[809] == pytest.approx(0.02, abs=1e-3)
    for s in range(400):
        assert sizes[10 + s] == pytest.approx(0.5 + 0.5 * (1 - math.sqrt(s / 400)))


def test_schedules_fall_epoch_by_epoch_where_it_is_not():
    assert moves(config(schedule="linear"), lambda rng: iter(ONES)) == pytest.approx([0.1] * 3 + [0.05] * 3)


def test_a_stage_that_comes_again_goes_on_with_its_warmup_and_schedule():
    module, seen = line(0.0), []
    training = config(schedule="linear", warmup=2, epochs=1)
    stages = [Stage(name, training, lambda rng: ONES[:2], slope(module)) for name in "aba"]
    hooks = Hooks(on_step=lambda step: seen.append(module.weight.item()))
    Trainer(module, stages, hooks).fit()
    steps = [before - after for before, after in pairwise([0.0, *seen])]
    assert steps == pytest.approx([0.05, 0.1, 0.05, 0.1, 0.05, 0.025])


def test_clipping_bounds_the_norm_of_all_gradients_together():
    assert moves(config(clip=0.5), lambda rng: [torch.tensor([[3.0]]), torch.tensor([[0.25]])])[:2] == pytest.approx(
        [0.05, 0.025]
    )


def test_accumulated_batches_make_the_step_of_one_large_batch():
    x, y = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0)).double()
    ended = []
    for size, accumulate in ((12, 1), (4, 3)):
        module = nn.Linear(3, 3).double()
        nn.init.constant_(module.weight, 0.3), nn.init.zeros_(module.bias)
        batches = list(zip(x.split(size), y.split(size)))
        stage = Stage("toy", config(accumulate=accumulate, optimizer="adam"), lambda rng, b=batches: b,
                      lambda b, m=module: {"fit": mse_loss(m(b[0]), b[1])})  # fmt: skip
        at = Trainer(module, [stage]).fit()
        assert at.step == 2
        ended.append((module.weight, at.history[-1]["fit"]))
    torch.testing.assert_close(ended[0][0], ended[1][0], rtol=1e-12, atol=0)
    assert ended[0][1] == pytest.approx(ended[1][1])


def test_a_last_group_that_is_short_is_averaged_over_what_it_has():
    assert moves(config(accumulate=2, epochs=1), lambda rng: ONES) == pytest.approx([0.1, 0.1])


def test_adam_adamw_and_sgd_are_those_of_torch():
    x = torch.tensor([[0.5]])
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        module, twin = line(), line()
        stage = Stage("toy", config(optimizer=name, weight_decay=0.2), lambda rng: [x, -x, x], slope(module))
        Trainer(module, [stage]).fit()
        plain = kind(twin.parameters(), lr=0.1, weight_decay=0.2)
        for batch in [x, -x, x] * 2:
            plain.zero_grad()
            (twin.weight * batch).sum().backward()
            plain.step()
        torch.testing.assert_close(module.weight, twin.weight)


def test_adamw_takes_its_decay_off_tables_and_matrices_alone():
    def start():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))

    def trained(weight_decay):
        module = start()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        options = config(optimizer="adamw", weight_decay=weight_decay, epochs=1)
        Trainer(module, [Stage("toy", options, lambda rng: [x], lambda x: {"toy": module(x).exp().mean()})]).fit()
        return dict(module.named_parameters())

    with_decay, without = trained(0.5), trained(0.0)
    torch.testing.assert_close(without["0.weight"] - with_decay["0.weight"], 0.05 * start()[0].weight)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(with_decay[name], without[name])


def judged(values, **options):
    """A run whose weight is the number of epochs over and whose validation gives these values."""
    module, given = line(0.0), iter(values)
    hooks = Hooks(validate=lambda: {"quality@1": next(given)})
    training = config(lr=1.0, **{"epochs": len(values), **options})
    at = Trainer(module, [Stage("toy", training, lambda rng: [-torch.ones(1, 1)], slope(module))], hooks).fit()
    return at, module.weight.item()


def test_validation_sees_the_module_in_eval_mode_and_training_goes_on_in_its_own():
    module, modes = Halves(), []
    hooks = Hooks(validate=lambda: modes.append(module.low.training) or {"quality@1": 0.0})
    stage = Stage("all", config(), lambda rng: [torch.randn(8, 4)],
                  lambda x: modes.append(module.low.training) or module.loss(x))  # fmt: skip
    Trainer(module, [stage], hooks).fit()
    assert modes == [True, False, True, False]


def test_the_weights_of_the_best_epoch_are_kept():
    at, weight = judged([0.1, 0.4, 0.3, 0.4, 0.2])
    assert (at.best, at.best_epoch, at.epochs_run, weight) == (0.4, 2, 5, 2.0)


def test_patience_ends_a_run_after_so_many_validations_without_a_better_one():
    at, weight = judged([0.1, 0.2, 0.1, 0.2, 0.9, 0.9], patience=2)
    assert (at.epochs_run, at.best_epoch, weight) == (4, 2, 2.0)
    at, _ = judged([0.1, 0.2, 0.1, 0.2, 0.9, 0.9], patience=3)
    assert (at.epochs_run, at.best_epoch) == (6, 5)


def test_validation_comes_every_so_many_epochs_and_after_the_last():
    at, _ = judged([0.1, 0.2, 0.3], epochs=5, eval_every=2)
    assert [line["epoch"] for line in at.history if "quality@1" in line] == [2, 4, 5]


def test_a_run_without_validation_ends_with_the_last_weights():
    module = line(0.0)
    at = Trainer(module, [Stage("toy", config(lr=1.0), lambda rng: ONES, slope(module))]).fit()
    assert (at.best, module.weight.item()) == (None, -6.0)


def test_a_metric_that_validation_does_not_give_is_refused():
    with pytest.raises(ConfigError, match="validation gives quality@1, not 'ndcg@9'. Set training.metric to one."):
        judged([0.1], metric="ndcg@9")


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.low = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.high = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5))

    def loss(self, x):
        return {"size": (self.high(self.low(x)) - 1).square().mean(), "penalty": 0 * x.sum()}


def test_a_frozen_part_stays_as_it_is_byte_for_byte_and_in_eval_mode():
    module, modes = Halves(), []
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(8, 4)

    def loss(batch):
        modes.append((module.low[2].training, module.high[1].training))
        return module.loss(batch)

    training = config(optimizer="adamw", weight_decay=0.5, epochs=3)
    Trainer(module, [Stage("top", training, lambda rng: [x], loss, trains=("high",))]).fit()
    after = module.state_dict()
    assert modes == [(False, True)] * 3
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("low"))
    assert not torch.equal(before["high.0.weight"], after["high.0.weight"])


def test_a_parameter_that_came_frozen_stays_frozen():
    module = Halves()
    module.low.requires_grad_(False)
    before = copy.deepcopy(module.low[0].weight)
    Trainer(module, [Stage("all", config(), lambda rng: [torch.randn(8, 4)], module.loss)]).fit()
    assert torch.equal(before, module.low[0].weight)


def test_stages_train_their_parts_in_turn_and_begin_once():
    module, begun, seen = Halves(), [], []
    hooks = Hooks(
        on_epoch=lambda epoch: seen.append(
            (epoch, module.low[0].weight.sum().item(), module.high[0].weight.sum().item())
        )
    )
    x = torch.randn(8, 4)
    stages = [
        Stage(part, config(), lambda rng: [x], module.loss, trains=(part,), begin=lambda p=part: begun.append(p))
        for part in ("low", "high")
    ]
    at = Trainer(module, stages, hooks).fit()
    assert begun == ["low", "high"]
    assert [epoch for epoch, _, _ in seen] == [0, 1, 0, 1]
    assert [line["stage"] for line in at.history] == ["low", "low", "high", "high"]
    assert [line["step"] for line in at.history] == [1, 2, 3, 4]
    lows, highs = [low for _, low, _ in seen], [high for _, _, high in seen]
    assert lows[0] != lows[1] != lows[2] == lows[3]
    assert highs[0] == highs[1] == highs[2] != highs[3]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "stable_adamw"])
def test_a_part_with_a_pace_moves_by_that_share_of_the_steps(optimizer):
    def moved(paces):
        module = nn.ModuleDict({"low": line(), "high": line()})
        seen = []
        hooks = Hooks(on_step=lambda step: seen.append([half.weight.item() for half in module.values()]))
        loss = lambda x: {"slope": ((module["low"].weight + module["high"].weight) * x).sum()}  # noqa: E731
        training = config(optimizer=optimizer, schedule="linear")
        stage = Stage("toy", training, lambda rng: ONES, loss, ("low", "high"), paces=paces)
        at = Trainer(module, [stage], hooks).fit()
        assert [one["lr"] for one in at.history] == pytest.approx([0.1 * 4 / 6, 0.1 / 6])
        return 1 - torch.tensor(seen)

    even, slow = moved({}), moved({"low": 0.25})
    torch.testing.assert_close(even[:, 0], even[:, 1])
    torch.testing.assert_close(slow[:, 0], even[:, 0] / 4)
    torch.testing.assert_close(slow[:, 1], even[:, 1])


def test_a_stage_starts_from_the_best_weights_of_the_one_before():
    module, given, started = line(0.0), iter([0.5, 0.1, 0.1]), []
    hooks = Hooks(validate=lambda: {"quality@1": next(given)})
    first = Stage("first", config(lr=1.0), lambda rng: ONES, slope(module))
    second = Stage("second", config(epochs=1), lambda rng: ONES, slope(module),
                   begin=lambda: started.append(module.weight.item()))  # fmt: skip
    Trainer(module, [first, second], hooks).fit()
    assert started == [-3.0]


def test_a_stage_with_the_name_of_an_earlier_one_continues_its_optimiser():
    def ended(names):
        module = line()
        batches = {x: [torch.tensor([[x]])] for x in (1.0, 0.1)}
        training = config(optimizer="adam", epochs=1)
        stages = [
            Stage(name, training, lambda rng, x=x: batches[x], slope(module)) for name, x in zip(names, (1.0, 0.1))
        ]
        trainer = Trainer(module, stages)
        trainer.fit()
        return len(trainer.optimizers), module.weight.item()

    twin = line()
    adam = torch.optim.Adam(twin.parameters(), lr=0.1)
    for x in (1.0, 0.1):
        twin.weight.grad = torch.tensor([[x]])
        adam.step()
    assert ended("aa") == (1, pytest.approx(twin.weight.item()))
    assert ended("ab") == (2, pytest.approx(0.8))  # a fresh Adam steps by lr whatever the gradient
    with pytest.raises(ValueError, match="two stages named 'a' share an optimiser and must train the same parts"):
        Trainer(Halves(), [Stage("a", config(), lambda rng: [], len, trains=(part,)) for part in ("low", "high")])


def test_metrics_jsonl_holds_a_line_for_every_epoch(tmp_path):
    module, given = line(0.0), iter([0.5])
    hooks = Hooks(validate=lambda: {"quality@1": next(given)})
    stage = Stage("toy", config(lr=1.0, eval_every=2), lambda rng: ONES, lambda x: {"a": module(x).sum(), "b": x.sum()})
    Trainer(module, [stage], hooks, folder=tmp_path / "run").fit()
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"stage": "toy", "epoch": 1, "step": 3, "lr": 1.0, "a": -1.0, "b": 1.0},
        {"stage": "toy", "epoch": 2, "step": 6, "lr": 1.0, "a": -4.0, "b": 1.0, "quality@1": 0.5},
    ]


def test_progress_shows_losses_and_the_metric_and_ends_when_the_run_stops_early():
    shown = []
    with listening(lambda *report: shown.append(report)):
        judged([0.25, 0.125, 0.5], patience=1)
    assert shown == [
        ("toy", 1, 3, "slope 0  quality@1 0.25  (best 0.2500, epoch 1)"),
        ("toy", 2, 2, "slope -1  quality@1 0.125  (best 0.2500, epoch 1)"),
    ]


def test_a_loss_that_is_nan_names_its_term_the_step_and_the_last_good_weights(tmp_path):
    module = line()
    batches = [torch.ones(1, 1)] * 4 + [torch.full((1, 1), torch.nan)]
    stage = Stage("toy", config(checkpoint_steps=3), lambda rng: batches,
                  lambda x: {"fine": module.weight.sum(), "bad": module(x).sum()})  # fmt: skip
    text = (
        r"loss term 'bad' is nan at step 5 \(epoch 1; lr 0.1\). Last good weights: .*step-0+3. "
        r"Lower the learning rate \(training.lr\).$"
    )
    with pytest.raises(TrainingDiverged, match=text):
        Trainer(module, [stage], folder=tmp_path).fit()
    assert torch.isfinite(module.weight).all()
    with pytest.raises(TrainingDiverged, match="No checkpoint was written before. Lower"):
        Trainer(module, [stage]).fit()


def test_weights_that_overflow_while_the_loss_is_finite_are_neither_kept_nor_written(tmp_path):
    module = line(0.0)
    stage = Stage("toy", config(checkpoint_steps=1, epochs=1), lambda rng: ONES[:1],
                  lambda x: {"root": module.weight.abs().sqrt().sum()})  # fmt: skip
    with pytest.raises(TrainingDiverged, match=r"the weights 'weight' are no longer finite after step 1 \(epoch 1"):
        Trainer(module, [stage], folder=tmp_path).fit()
    assert not list(tmp_path.glob("step*"))


def test_an_epoch_without_a_batch_is_refused():
    module = line()
    with pytest.raises(DataError, match="toy has nothing to learn from: an epoch gave no batch. Add interactions."):
        Trainer(module, [Stage("toy", config(), lambda rng: [], slope(module))]).fit()


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_runs_products_under_autocast_where_the_processor_has_it_and_keeps_float32_weights(able, monkeypatch):
    monkeypatch.setattr("itemic.training.trainer.has_bfloat16", lambda: able)
    seen = []
    for precision in ("float32", "bfloat16"):
        module = line()

        def loss(x, module=module):
            seen.append(module(x).dtype)
            return {"size": module(x).square().mean()}

        Trainer(module, [Stage("toy", config(precision=precision), lambda rng: ONES, loss)]).fit()
        assert module.weight.dtype == torch.float32
    assert set(seen[: len(seen) // 2]) == {torch.float32}
    assert set(seen[len(seen) // 2 :]) == {torch.bfloat16 if able else torch.float32}


def test_equal_seeds_give_equal_batches_and_others_do_not():
    def drawn(seed):
        module, rows = line(), []
        stage = Stage("toy", config(), lambda rng: shuffled(9, 4, rng),
                      lambda batch: rows.append(batch.tolist()) or {"w": module.weight.sum()})  # fmt: skip
        Trainer(module, [stage], seed=seed).fit()
        return rows

    assert drawn(1) == drawn(1) != drawn(2)
    epochs = [list(chain(*drawn(1)[:3])), list(chain(*drawn(1)[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(9))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("option", "value"), [("lr", -0.1), ("lr", 0), ("epochs", 0), ("clip", 0), ("schedule", "x")])
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValidationError):
        TrainingConfig(**{option: value})
