import pytest

from training import devices


def test_without_a_driver_there_is_no_gpu_and_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ())
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("asked"))
    assert devices.gpu_names() == []


def test_with_a_driver_torch_is_asked(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", ("/",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", "GPU {}".format)
    assert devices.gpu_names() == ["GPU 0", "GPU 1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert devices.gpu_names() == []
