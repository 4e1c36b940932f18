import onnxruntime
import pytest

from lomt.deploy import ProviderError, providers
from lomt.deploy.providers import INSTALL, available_providers, check_provider, reads_onnx, runs_on_gpu
from lomt.errors import UnknownNameError


@pytest.mark.parametrize("provider", INSTALL)
def test_each_is_either_there_or_refused_with_what_to_install(provider, monkeypatch):
    if provider in available_providers():
        check_provider(provider)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    monkeypatch.setattr(providers, "find_spec", lambda name: object() if name == "torch" else None)
    if provider.startswith("torch"):
        check_provider(provider)
        return
    with pytest.raises(ProviderError) as caught:
        check_provider(provider)
    assert str(caught.value) == (
        f"Expected provider `{provider}` to be installed, but available here are torch, torch-compile. "
        f"{INSTALL[provider]}"
    )


def test_names_that_are_none_and_devices_that_do_not_fit_are_refused():
    with pytest.raises(UnknownNameError, match="Unknown provider `openvion`, did you mean `openvino`"):
        check_provider("openvion")
    with pytest.raises(UnknownNameError, match="Unknown device `gpu`"):
        check_provider("torch", "gpu")
    with pytest.raises(ValueError, match="Expected `device` to be cpu with provider openvino, but got cuda"):
        check_provider("openvino", "cuda")


def test_who_reads_files_and_who_runs_on_a_gpu():
    assert [name for name in INSTALL if not reads_onnx(name)] == ["torch", "torch-compile"]
    assert [name for name in INSTALL if runs_on_gpu(name)] == ["cuda", "tensorrt"]
    assert runs_on_gpu("torch", "cuda")
