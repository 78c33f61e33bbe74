"""What importing costs: nothing that is not used, and nothing that is optional (each check in a fresh interpreter)."""

from __future__ import annotations

import subprocess
import sys

import pytest

import florence2

HEAVY = ("torch", "transformers", "supervision", "tokenizers", "numpy", "safetensors", "huggingface_hub", "PIL")
OPTIONAL = (
    *("transformers", "supervision", "pycocotools", "timm", "einops", "flash_attn", "torchvision", "cv2", "scipy"),
    *("matplotlib", "hypothesis", "pytest", "accelerate", "peft", "pyarrow", "yaml"),
    *("onnx", "onnxscript", "onnxruntime"),
)


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_after(code: str) -> list[str]:
    return python(f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])").split()


@pytest.mark.parametrize(
    "code",
    [
        "import florence2; florence2.__version__; dir(florence2)",
        "from florence2 import Florence2Error, Detections, Florence2Config",
        "import florence2.cli",
        "import sys; sys.argv = ['florence2', '--help']\n"
        "try:\n    from florence2.cli import main; main()\nexcept SystemExit: pass\n",
        "import sys; sys.argv = ['florence2', 'run', '--help']\n"
        "try:\n    from florence2.cli import main; main()\nexcept SystemExit: pass\n",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert [word for word in loaded_after(code) if word in HEAVY] == []


def test_the_check_above_can_fail() -> None:
    assert "numpy" in loaded_after("import numpy")


def test_parsing_answers_needs_no_pytorch() -> None:
    assert "torch" not in loaded_after(
        "import florence2.cli.parse, florence2.language.answers, florence2.language.compat"
    )


@pytest.mark.slow
def test_everything_imports_without_what_is_optional() -> None:
    python(
        f"""
import sys, importlib, pkgutil
for name in {OPTIONAL}:
    sys.modules[name] = None  # an import of it now raises ImportError
import florence2
for module in pkgutil.walk_packages(florence2.__path__, "florence2."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in florence2.__all__:
    getattr(florence2, name)
"""
    )


def test_all_names_are_there() -> None:
    for name in florence2.__all__:
        assert getattr(florence2, name) is not None
    assert set(florence2.__all__) <= set(dir(florence2))
    with pytest.raises(AttributeError, match="Florence2"):
        _ = florence2.Florence3


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert florence2.__version__ == version("florence2")
