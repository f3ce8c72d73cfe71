import pytest

from trmml.errors import ConfigError
from trmml.training.fabric import pick_device


def test_devices_that_are_there():
    assert pick_device("cpu") == "cpu" and pick_device("auto") in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["toaster", "gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_another_form_names_those_there_are(device):
    with pytest.raises(
        ConfigError, match="expected the device auto, cpu, cuda, cuda:1 or mps, got"
    ):
        pick_device(device)


@pytest.mark.parametrize("device", ["cpu:1", "cuda:999", "mps:7"])
def test_one_that_is_not_there_is_refused_before_any_work(device):
    with pytest.raises(
        ConfigError, match=f"the device {device} was asked for, but torch finds none"
    ):
        pick_device(device)
