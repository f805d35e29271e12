"""Run by `test_triton_kernels`: compile every kernel for an H200 (sm_90), which needs no GPU, and print what came out.

A line of JSON for each: bytes of shared memory, bytes spilled to the stack, and how its instructions look.
"""

import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workers.compute import triton_kernels

FP32, BF16, INT32 = "*fp32", "*bf16", "*i32"
PRODUCT = {"left": BF16, "lost": FP32, "kept": FP32, "right": BF16, "norm": FP32, "rest": FP32, "unit": FP32}
SIZES = {"n_rows": "i32", "d_sae": "i32", "width": "i32"}
SURVIVORS = {"floor": FP32, "upper": FP32, "row_out": INT32, "feature_out": INT32, "count": INT32, "n_room": "i32"}
LOWS = {"lower": FP32, "lows": FP32, "n_groups": "i32"}
TOTALS = {"x": FP32, "weights": FP32, "row": INT32, "feature": INT32, "out": "*fp64", "n_pairs": "i32", "d": "i32"}
MULTIPLES_OF_16 = {"d_sae", "width", "d"}


def compiled(kernel: Any, types: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    names = kernel.arg_names
    constants = {name: value for name, value in options.items() if name in names}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if types.get(name, "").startswith("*") or name in MULTIPLES_OF_16
        },
    )
    launch = {name: value for name, value in options.items() if name not in names}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch)
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(made.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    ptx = made.asm["ptx"]
    return {
        "shared_bytes": made.metadata.shared,
        "stack_bytes": max(map(int, re.findall(r"STACK:(\d+)", usage))),
        "registers": max(map(int, re.findall(r"REG:(\d+)", usage))),
        "is_on_tensor_cores": "wgmma.mma_async" in ptx,
        "flushes_denormals": ".ftz" in ptx,
        "has_fp64": "fma.rn.f64" in ptx,
    }


def main() -> None:
    tile = triton_kernels._options(1 << 15, triton_kernels._FEATURE_TILE)
    small = triton_kernels._options(1 << 15, 16)
    pairs = {"PAIRS": triton_kernels._PAIRS, "STEP": triton_kernels._STEP, "num_warps": 4}
    for name, result in {
        "survivors": compiled(triton_kernels._survivors, PRODUCT | SIZES | SURVIVORS, tile),
        "group_lows": compiled(triton_kernels._group_lows, PRODUCT | SIZES | LOWS, tile),
        "group_lows_16": compiled(triton_kernels._group_lows, PRODUCT | SIZES | LOWS, small),
        "totals": compiled(triton_kernels._totals, TOTALS, pairs),
    }.items():
        print(json.dumps({"name": name} | result))  # noqa: T201


if __name__ == "__main__":
    main()
