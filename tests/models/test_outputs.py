"""What a network answers, and what is said where that is not logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.errors import BadInput
from bench.models import check_outputs

SHAPE = (1, 8, 8)
IMAGES = torch.linspace(0, 1, 20 * 64).view(20, *SHAPE)
MADE_FOR = "give a model made for this data set"


class Net(nn.Module):
    def __init__(self, forward: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.call = forward

    def forward(self, x: Tensor) -> object:
        return self.call(x)


def told(forward: Callable[[Tensor], object], classes: int = 10) -> str:
    with pytest.raises(BadInput) as error:
        check_outputs(Net(forward), IMAGES, classes, "mine")
    return str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_told_as_that(dtype: torch.dtype) -> None:
    for net in (
        nn.Linear(64, 10).to(dtype),
        nn.Sequential(nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 10, 64), nn.Flatten()).to(dtype),
    ):
        message = told(lambda x, net=net: net(x.flatten(1)))  # type: ignore[misc]
        assert "images come as float32" in message
        assert "net.float()" in message
        assert MADE_FOR not in message


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: no kernel image is available for execution on the device",
        "Torch not compiled with CUDA enabled",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_what_is_about_the_device_is_told_as_that(message: str) -> None:
    def failing(x: Tensor) -> Tensor:
        raise RuntimeError(message)

    found = told(failing)
    assert message in found
    assert "choose with --device" in found
    assert MADE_FOR not in found


def test_a_real_call_of_cuda_is_told_as_that() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "choose with --device" in told(lambda x: x.cuda().flatten(1))


def test_images_of_another_size_ask_for_a_model_of_this_data_set() -> None:
    assert MADE_FOR in told(lambda x: nn.Linear(784, 10)(x.flatten(1)))
    assert MADE_FOR in told(nn.Conv2d(3, 10, 3))


def test_any_other_error_asks_to_mend_the_forward() -> None:
    message = told(lambda x: {}["layer9"])  # type: ignore[misc]
    assert "KeyError: 'layer9'" in message
    assert "mend its forward" in message
    assert MADE_FOR not in message


def test_one_sigmoid_output_gets_its_recipe() -> None:
    score = IMAGES.flatten(1).sum(1) - 20
    for one in (score, score.sigmoid()):
        assert "[-z, z] of it: torch.stack([-z, z], 1)" in told(lambda _, one=one: one, classes=2)  # type: ignore[misc]
        assert "torch.cat([-z, z], 1)" in told(lambda _, one=one: one[:, None], classes=2)  # type: ignore[misc]
    assert "take its sigmoid off" in told(lambda _: score.sigmoid(), classes=2)
    assert "take its sigmoid off" not in told(lambda _: score, classes=2)
    assert "the data set has 10 classes, and one number tells two apart" in told(lambda _: score)
    check_outputs(Net(lambda _: torch.stack([-score, score], 1)), IMAGES, 2, "mine")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_probabilities_are_told_whatever_gives_them(dtype: torch.dtype) -> None:
    """Of a network the softmax goes; a vote of trees has none, and gives its logarithm."""
    message = told(lambda x: x.flatten(1)[:, :10].softmax(1).to(dtype))
    assert "remove the softmax" in message
    assert "give their logarithm, torch.log(p.clamp_min(1e-12))" in message
    votes = torch.eye(10)[torch.arange(20) % 10]
    assert "give their logarithm" in told(lambda _: votes.to(dtype))
    check_outputs(Net(lambda _: torch.log(votes.clamp_min(1e-12))), IMAGES, 10, "mine")


def test_answers_by_name_and_in_any_precision_pass() -> None:
    logits = torch.randn(20, 10)
    for answer in ({"logits": logits}, logits.half(), logits.bfloat16(), logits.double()):
        check_outputs(
            Net(lambda x, answer=answer: answer if isinstance(answer, dict) else answer[: len(x)]), IMAGES[:20], 10, "n"
        )  # type: ignore[misc]


def test_a_tuple_is_refused_with_what_to_return() -> None:
    assert "such as `return answer[0]`" in told(lambda x: (x.flatten(1)[:, :10], None))
