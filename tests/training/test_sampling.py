import numpy as np
import pytest

from training.sampling import Plan, StepSampler, epoch_order, sample_generator


def global_batches(plan, seed=3, start=0):
    """Each step's keys in the order pass 0 of rank 0, pass 0 of rank 1, ..., pass 1 of rank 0 ..."""
    streams = [list(StepSampler(plan, seed, rank, start)) for rank in range(plan.processes)]
    steps = plan.last_step - start
    return [
        [
            key
            for k in range(plan.accumulate)
            for stream in streams
            for key in stream[s * plan.accumulate + k]
        ]
        for s in range(steps)
    ]


@pytest.mark.parametrize(
    "batch_size, accumulate, processes", [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)]
)
def test_same_samples_in_the_same_order_for_every_layout(batch_size, accumulate, processes):
    reference = global_batches(Plan(37, 8, epochs=3))
    assert global_batches(Plan(37, batch_size, accumulate, processes, epochs=3)) == reference


def test_a_pass_of_all_processes_is_a_pass_of_one_with_a_larger_batch():
    """Batch norm normalises over a pass."""
    one = list(StepSampler(Plan(37, 6, 2, 1, epochs=2), 3))
    for processes in (2, 3):
        plan = Plan(37, 6 // processes, 2, processes, epochs=2)
        several = zip(*[StepSampler(plan, 3, rank) for rank in range(processes)], strict=True)
        assert [[key for part in parts for key in part] for parts in several] == one


def test_resuming_continues_the_sequence():
    plan = Plan(20, 4, epochs=4)
    assert global_batches(plan, start=7) == global_batches(plan)[7:]


def test_an_epoch_visits_each_sample_once_and_epochs_differ():
    plan = Plan(40, 8, epochs=2)
    keys = [key for batch in global_batches(plan) for key in batch]
    first, second = [i for e, i in keys if e == 0], [i for e, i in keys if e == 1]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert list(epoch_order(3, 0, 40)) == first


def test_sample_randomness_depends_on_all_three_numbers():
    draws = {
        key: sample_generator(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(set(draws.values())) == 4
    assert draws[0, 0, 1] == sample_generator(0, 0, 1).random()
    assert np.isclose(
        np.mean([sample_generator(0, 0, i).random() for i in range(2000)]), 0.5, atol=0.03
    )


@pytest.mark.parametrize(
    "layout, remedy, works",
    [
        ((40, 128, 1, 2), "use --batch_size 20 or less", (40, 20, 1, 2)),
        ((5, 2, 4, 1), "use --batch_size 1 or less", (5, 1, 4, 1)),
        ((5, 1, 8, 1), "use --accum_iter 5 or less", (5, 1, 5, 1)),
        ((5, 4, 8, 2), "use --accum_iter 2 or less with --batch_size 1", (5, 1, 2, 2)),
        ((1, 2, 1, 1), "use --batch_size 1 or less", (1, 1, 1, 1)),
        (
            (1, 8, 2, 2),
            "start at most 1 processes, with --batch_size 1 and --accum_iter 1",
            (1, 1, 1, 1),
        ),
        ((3, 64, 1, 8), "start at most 3 processes, with --batch_size 1", (3, 1, 1, 3)),
    ],
)
def test_too_few_radiographs_are_refused_with_values_that_work(layout, remedy, works):
    with pytest.raises(
        ValueError, match=f"^{layout[0]} radiographs to train on do not fill .*: {remedy}"
    ):
        Plan(*layout)
    assert Plan(*works).steps_per_epoch >= 1


def test_max_steps_ends_the_run_but_not_the_schedule():
    plan = Plan(100, 10, epochs=5, max_steps=7)
    assert (plan.total_steps, plan.last_step, len(StepSampler(plan, 0))) == (50, 7, 7)


@pytest.mark.parametrize(
    "field, value", [("batch_size", 0), ("accumulate", 0), ("epochs", 0), ("max_steps", 0)]
)
def test_numbers_that_make_no_sense_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        Plan(**({"samples": 10, "batch_size": 2} | {field: value}))


@pytest.mark.parametrize("batch_size, processes", [(10, 1), (5, 2)])
def test_shares_decide_how_often_a_sample_is_drawn(batch_size, processes):
    shares = np.r_[np.full(90, 1 / 90), np.full(10, 1 / 10)]  # two classes, 9 to 1
    plan = Plan(100, batch_size, processes=processes, epochs=40)

    def keys(start=0):
        streams = [list(StepSampler(plan, 3, rank, start, shares)) for rank in range(processes)]
        return [key for step in zip(*streams) for part in step for key in part]

    drawn = keys()
    rare = np.array([index >= 90 for _, index in drawn])
    assert len(drawn) == 4000 and abs(rare.mean() - 0.5) < 4 * 0.5 / 4000**0.5
    counts = np.bincount([index for _, index in drawn], minlength=100)
    assert counts[90:].min() > 150 and counts[:90].max() < 60
    assert len(set(drawn)) == 4000  # no two draws of a sample are augmented alike
    assert drawn == [
        (number, int(i))
        for number, i in enumerate(
            np.concatenate([epoch_order(3, e, 100, shares) for e in range(40)])
        )
    ]
    assert keys(7) == drawn[70:]
