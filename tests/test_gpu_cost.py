"""What a step costs is counted right where it can be counted by hand."""

import json

import pytest
import torch

from experiments.benchmarks.gpu_cost import ADAM_BYTES, Count, main, step_cost


def test_a_product_is_counted():
    left, right = torch.zeros(3, 4, device="meta"), torch.zeros(4, 5, device="meta")
    with Count() as count:
        (left @ right).t().relu_()
    assert count.flops == 2 * 3 * 4 * 5
    assert dict(count.kernels) == {"mm": 1, "relu_": 1}
    # The product reads 12 and 20 numbers and writes 15; relu_ reads and writes 15.
    assert count.bytes == 4 * (12 + 20 + 15 + 15 + 15)
    assert count.seconds(1.0, float("inf")) == 120
    assert count.seconds(float("inf"), 4.0) == 77
    assert count.seconds(float("inf"), 4.0, launch=40.0) == 47 + 40


def test_an_expanded_tensor_is_read_once():
    image, batch = torch.zeros(1, 5, device="meta"), torch.zeros(7, 5, device="meta")
    with Count() as count:
        batch + image.expand(7, 5)
    assert count.bytes == 4 * (35 + 5 + 35)


@pytest.fixture
def costs(tiny_data):
    return {
        (batch, seeds): step_cost(batch, seeds, z_what_size=5)
        for batch, seeds in [(8, 1), (16, 1), (8, 2)]
    }


def test_work_grows_with_batch_and_seeds_and_kernels_do_not(costs):
    one, larger, two = costs.values()
    assert larger.flops == two.flops == 2 * one.flops
    assert larger.kernels == one.kernels
    assert one.kernels <= two.kernels < 1.2 * one.kernels
    parameters = 936_873
    assert one.least_bytes == parameters * (ADAM_BYTES + 12) + 8 * 18 * 16
    assert two.least_bytes == 2 * one.least_bytes
    for cost in costs.values():
        for name in cost.floor:
            assert cost.floor[name] <= cost.roofline[name] < cost.graph[name] < cost.eager[name]


def test_the_count_from_the_command_line(tiny_data, capsys):
    main(["--batch-sizes", "4", "--num-seeds", "2", "--json"])
    (cost,) = json.loads(capsys.readouterr().out)
    assert cost["batch_size"] == 4
    assert cost["num_seeds"] == 2
    main(["--batch-sizes", "4", "--num-seeds", "1"])
    assert "1 seed(s), batch 4" in capsys.readouterr().out
