import json

import pytest
import torch

from experiments.benchmarks.downstream import __main__ as command
from experiments.benchmarks.downstream import probes
from experiments.benchmarks.downstream.probes import TASKS, fit, latent_features, measure
from experiments.benchmarks.downstream.report import format_table, save_picture
from experiments.datasets import Scenes
from tests.small import small_images, small_model


def two_digits(classes, lefts):
    """Scenes of two digits of these classes, with the left edges of their boxes."""
    classes, lefts = torch.tensor(classes), torch.tensor(lefts, dtype=torch.float32)
    boxes = torch.stack([lefts, lefts * 0, lefts + 4, lefts * 0 + 4], dim=-1)
    return Scenes(
        images=(small_images(len(classes)) * 255).to(torch.uint8),
        num_objects=torch.full((len(classes),), 2),
        classes=classes,
        boxes=boxes,
        name="two",
    )


def test_labels():
    scenes = two_digits([[3, 5], [3, 5], [9, 9], [8, 0]], [[0, 6], [6, 0], [0, 6], [5, 1]])
    assert TASKS["sum"].labels(scenes).tolist() == [8, 8, 18, 8]
    # 3 is left of 5; 5 is left of 3; the same twice is not in order; 0 is left of 8.
    assert TASKS["order"].labels(scenes).tolist() == [1, 0, 0, 1]


def test_features_hold_what_was_found_and_nothing_else():
    model, images = small_model(inference="paper"), small_images(12)
    with torch.no_grad():
        model.inference.predictor.mlp[-1].bias[0] += 1.0
    reading = model.infer(images)
    assert reading.counts.min() > 0 or reading.counts.unique().numel() > 1
    features = latent_features(model, images, batch_size=5).view(12, 3, 1 + 3 + 4)
    present = reading.present
    assert features[..., 0].equal(present.float())
    assert (features[~present] == 0).all()
    torch.testing.assert_close(features[present][:, 4:], reading.z_what[present])
    prior = model.prior().z_where
    where = features[present][:, 1:4] * prior.scale + prior.loc
    torch.testing.assert_close(where, reading.z_where[present])


def test_a_probe_learns_what_can_be_learned():
    torch.manual_seed(0)
    inputs = torch.randn(400, 6)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    probe = fit("latents", inputs[:300], labels[:300], 2, steps=150, seed=0)
    right = probes.predict(probe, inputs[300:]).argmax(dim=1) == labels[300:]
    assert right.float().mean() > 0.9
    again = fit("latents", inputs[:300], labels[:300], 2, steps=150, seed=0)
    assert all(a.equal(b) for a, b in zip(probe.parameters(), again.parameters(), strict=True))


def test_labels_kept_back_choose_and_do_not_train(monkeypatch):
    """With the first fifth labelled at random, the rest of the labels is learned all the same."""
    torch.manual_seed(0)
    seen = []
    cross_entropy = probes.F.cross_entropy
    monkeypatch.setattr(
        probes.F, "cross_entropy", lambda x, y: seen.append(y) or cross_entropy(x, y)
    )
    labels = torch.cat([torch.ones(10), torch.zeros(40)]).long()
    fit("latents", torch.randn(50, 6), labels, 2, steps=20, seed=0)
    trained = [some for some in seen if len(some) == 40]
    assert len(trained) == 20
    assert all((some == 0).all() for some in trained)


def scenes(number, seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 10, (number, 2), generator=generator)
    lefts = torch.stack([torch.zeros(number), torch.full((number,), 7.0)], dim=1)
    return two_digits(classes.tolist(), lefts.tolist())


def records_of(**changes):
    settings = {"num_labels": [10, 30], "seeds": 2, "steps": 3}
    return list(
        measure(
            small_model(inference="paper"), scenes(40, 0), scenes(20, 1), **(settings | changes)
        )
    )


def test_every_probe_is_recorded_and_none_twice():
    records = records_of()
    keys = [(r["task"], r["input"], r["num_labels"], r["seed"]) for r in records]
    assert len(set(keys)) == len(keys) == 2 * 2 * 2 * 2
    assert all(0 <= r["accuracy"] <= 1 for r in records)
    assert records_of(done=records[:5]) == records[5:]
    with pytest.raises(ValueError, match="fewer than the 50 labels"):
        records_of(num_labels=[50])


def test_subsets_are_nested_and_the_same_for_every_input(monkeypatch):
    asked = {}

    def remember(kind, inputs, labels, num_classes, *, seed, **_):
        asked[kind, num_classes, len(labels), seed] = labels

    monkeypatch.setattr(probes, "fit", remember)
    monkeypatch.setattr(probes, "predict", lambda probe, inputs: torch.zeros(len(inputs), 2))
    records_of()
    for kind in ("latents", "pixels"):
        assert asked[kind, 19, 30, 0][:10].equal(asked["latents", 19, 10, 0])
        assert not asked[kind, 19, 30, 1].equal(asked["latents", 19, 30, 0])


REPORT = {
    "step": 3000,
    "train": {"dataset": "multi-mnist", "estimator": "enumerate", "seed": 4, "translate": True},
    "commit": "abc",
    "settings": {"num_labels": [100, 1000], "dataset": "multi-mnist-2", "seeds": 2, "steps": 50},
    "held_out": 10_000,
    "counts_right": 0.987,
    "most_common": {"sum": 0.1},
    "records": [
        {"task": "sum", "input": "latents", "num_labels": number, "seed": seed, "accuracy": value}
        for number, seed, value in ((100, 0, 0.5), (100, 1, 0.6), (1000, 0, 0.7), (1000, 1, 0.9))
    ],
}


def test_table_and_picture(tmp_path):
    assert format_table(REPORT).splitlines() == [
        "| task | input | 100 labels | 1,000 labels |",
        "|---|---|---|---|",
        "| sum of the digits | MLP on AIR's latents | 55.0 ± 7.1 % | 80.0 ± 14.1 % |",
        "",
        "10,000 held-out scenes of `multi-mnist-2`, of which the model counts 98.7 % right; "
        "2 subset(s) of labels, 50 steps a probe; measured at abc. Always giving the most common "
        "answer: 10.0 % of sum. The model, after 3,000 steps of `python main.py train --dataset "
        "multi-mnist --translate --seed 4`.",
    ]
    save_picture(REPORT, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").stat().st_size > 1000


def test_a_record_can_be_shown_again(tmp_path, capsys):
    (tmp_path / "record.json").write_text(json.dumps(REPORT))
    page = tmp_path / "page.md"
    page.write_text("<!-- downstream -->\nold\n<!-- end of downstream -->\n")
    argv = ["--from", tmp_path / "record.json", "--write", page]
    assert command.main([str(part) for part in argv]) == 0
    assert format_table(REPORT) in capsys.readouterr().out
    assert format_table(REPORT) in page.read_text()


def test_a_killed_measurement_continues(tmp_path):
    path = tmp_path / "downstream.json"
    report = {"run": "x", "settings": {"seeds": 2}, "commit": "now"}
    assert command._begun(path, report) == (report, [])
    path.write_text(json.dumps(report | {"commit": "before", "records": [{"seed": 0}]}))
    assert command._begun(path, report) == (report | {"commit": "before"}, [{"seed": 0}])
    with pytest.raises(ValueError, match="with other settings"):
        command._begun(path, report | {"run": "y"})
    assert json.loads(path.read_text())["records"]


def test_bad_command_lines_are_refused(tmp_path, capsys):
    assert command.main([]) == 2
    assert "give --load RUN" in capsys.readouterr().err
    assert command.main(["--load", "x", "--output", str(tmp_path)]) == 2
    assert command.main(["--load", "x", "--steps", "0"]) == 2
    with pytest.raises(SystemExit):
        command.main(["--labels", "3"])
