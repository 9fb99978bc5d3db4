"""timm beside a torchvision that does not fit torch."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models import torchvision_compat
from arcticseg.models.torchvision_compat import ensure_torchvision


def test_timm_imports_in_a_fresh_process() -> None:
    code = "from arcticseg.models.torchvision_compat import ensure_torchvision as e; e(); e(); import timm, torchvision"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_missing_operators_are_declared(tmp_path) -> None:  # type: ignore[no-untyped-def]
    # A package of the same name that behaves like the broken one: it registers a shape for an operator
    # that only its absent compiled part would have declared.
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "helper.py").write_text("")
    (package / "__init__.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torchvision import helper
            for name in ("nms", "qnms"):
                torch.library.register_fake("torchvision::" + name)(lambda *a: None)
            torch.ops.torchvision.nms.default
            loaded = True
            """
        )
    )
    code = textwrap.dedent(
        """
        from arcticseg.models.torchvision_compat import ensure_torchvision
        ensure_torchvision()
        import torchvision
        assert torchvision.loaded and torchvision.helper
        """
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"], check=True)


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        ensure_torchvision()


def test_a_second_failure_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.setattr(torchvision_compat, "_declared", [torch.library.Library("arcticseg_test", "DEF")])
    with pytest.raises(RuntimeError, match="nms"):
        ensure_torchvision()


def test_a_hidden_module_cannot_be_imported_and_is_there_again_after() -> None:
    code = (
        "import sys\nfrom arcticseg.models.torchvision_compat import hidden\n"
        "with hidden('colorsys'):\n"
        "    try:\n        import colorsys\n"
        "    except ModuleNotFoundError:\n        print('hidden')\n"
        "import colorsys\nwith hidden('colorsys'):\n    import colorsys\n    print(colorsys.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hidden", "colorsys"]
