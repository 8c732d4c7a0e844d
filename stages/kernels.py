"""Which of a processor's instructions the arithmetic uses: others round otherwise, and other results follow.

`kernels: avx2` in params.yaml keeps PyTorch, NumPy and SciPy to AVX2 where a processor has it, also one with AVX-512.
They read this from the environment when they are imported, so it is set when a stage starts, before anything else.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
    "MKL_CBWR": "AVX2",  # its matrix products
    "OPENBLAS_CORETYPE": "Haswell",  # the matrix products of NumPy and SciPy, in the search
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's functions
}


def has_avx2() -> bool:
    """Whether this processor has AVX2, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and " avx2 " in f"{line} " for line in lines)


def pin(environment: MutableMapping[str, str] = os.environ, parameters: Path = Path("params.yaml")) -> None:
    """Set what `kernels` of params.yaml asks for. A process that has imported PyTorch already stays as it is."""
    if "torch" in sys.modules or not parameters.is_file():
        return
    from ruamel.yaml import YAML, YAMLError

    try:
        asked = YAML(typ="safe").load(parameters)["kernels"]
    except (YAMLError, UnicodeDecodeError, OSError, KeyError, TypeError):
        return  # the stage itself says what is wrong with the file
    if asked == "avx2" and has_avx2():
        environment.update(AVX2)
