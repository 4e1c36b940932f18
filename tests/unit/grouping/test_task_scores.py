import pytest

from lomt.grouping.task_scores import link_of, losses_of, sample_scores


@pytest.mark.parametrize("name", ["early", "scene", "lit"])
def test_numbers_give_back_the_losses(network, tasks, batch, name):
    task, target = tasks[name], batch[name]
    prediction = network(batch["image"])[name].detach()
    scores = sample_scores(task, prediction, target)
    losses = losses_of(scores.values, link_of(task))

    for index in range(len(target)):
        one = slice(index, index + 1)
        count = float(task.loss.count(target[one]))
        assert bool(scores.is_valid[index]) == (count > 0)
        if count:
            expected = float(task.loss(prediction[one], target[one])) / count
            assert float(losses[index]) == pytest.approx(expected, rel=1e-5)


def test_links(tasks):
    assert [link_of(task) for task in tasks.values()] == ["quadratic", "logistic", "logistic"]
