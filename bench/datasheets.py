"""What GPUs could do at best, by their makers' data sheets. Nothing here was measured.

Dense figures, never those "with sparsity". fp16 and int8 are of the tensor cores (fp16 with whatever
accumulation is faster), fp32 of the CUDA cores: our engines have TF32 off. Jetsons' are of the GPU alone,
without the DLAs.
Where a sheet gives sparse figures only, half of them; where it gives no fp32, 2 x cores x clock.
"""

from __future__ import annotations

import msgspec

from depthmask.errors import UsageError


class Datasheet(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's published peaks, at its boost clock."""

    name: str
    product: str
    architecture: str
    cuda_cores: int
    boost_mhz: int
    fp32_tflop_per_s: float
    fp16_tflop_per_s: float
    int8_top_per_s: float
    memory_gb_per_s: float
    source: str


def datasheet(name: str) -> Datasheet:
    """The GPU of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASHEETS:
        raise UsageError(
            f"a GPU to estimate must be one of {', '.join(DATASHEETS)}, or all, but got {name!r}"
        )
    return DATASHEETS[name]


def _sheet(
    name: str,
    product: str,
    architecture: str,
    cores_at_mhz: tuple[int, int],
    peaks: tuple[float, float, float],
    memory_gb_per_s: float,
    source: str,
) -> Datasheet:
    fp32, fp16, int8 = peaks
    return Datasheet(
        name=name,
        product=product,
        architecture=architecture,
        cuda_cores=cores_at_mhz[0],
        boost_mhz=cores_at_mhz[1],
        fp32_tflop_per_s=fp32,
        fp16_tflop_per_s=fp16,
        int8_top_per_s=int8,
        memory_gb_per_s=memory_gb_per_s,
        source=source,
    )


_ADA = "NVIDIA Ada GPU Architecture (white paper)"
_JETSON = "NVIDIA Jetson Orin Nano Series data sheet"
_ROWS = (
    _sheet(
        "orin-nano-15w",
        "Jetson Orin Nano 8GB, 15 W",
        "sm87",
        (1024, 625),
        (1.28, 10.0, 20.0),
        68.0,
        _JETSON,
    ),
    _sheet(
        "orin-nano",
        "Jetson Orin Nano 8GB, MAXN SUPER",
        "sm87",
        (1024, 1020),
        (2.09, 17.0, 33.0),
        102.0,
        _JETSON,
    ),
    _sheet(
        "orin-nx",
        "Jetson Orin NX 16GB",
        "sm87",
        (1024, 918),
        (1.88, 15.0, 30.0),
        102.4,
        "NVIDIA Jetson Orin NX Series data sheet; fp16 and int8 as the Nano's, by the clock",
    ),
    _sheet(
        "orin-agx",
        "Jetson AGX Orin 64GB",
        "sm87",
        (2048, 1300),
        (5.32, 42.5, 85.0),
        204.8,
        "NVIDIA Jetson AGX Orin Series Technical Brief",
    ),
    _sheet(
        "t4",
        "T4",
        "sm75",
        (2560, 1590),
        (8.1, 65.0, 130.0),
        320.0,
        "NVIDIA T4 Tensor Core GPU data sheet",
    ),
    _sheet(
        "a10",
        "A10",
        "sm86",
        (9216, 1695),
        (31.2, 125.0, 250.0),
        600.0,
        "NVIDIA A10 Tensor Core GPU data sheet",
    ),
    _sheet(
        "l4",
        "L4",
        "sm89",
        (7424, 2040),
        (30.3, 121.0, 242.5),
        300.0,
        "NVIDIA L4 Tensor Core GPU data sheet",
    ),
    _sheet(
        "l40s",
        "L40S",
        "sm89",
        (18176, 2520),
        (91.6, 362.0, 733.0),
        864.0,
        "NVIDIA L40S GPU data sheet",
    ),
    _sheet(
        "rtx4060",
        "GeForce RTX 4060",
        "sm89",
        (3072, 2460),
        (15.1, 60.5, 121.0),
        272.0,
        "NVIDIA GeForce RTX 4060 product page: 242 AI TOPS, sparse",
    ),
    _sheet(
        "rtx4090", "GeForce RTX 4090", "sm89", (16384, 2520), (82.6, 330.3, 660.6), 1008.0, _ADA
    ),
    _sheet(
        "rtx5090",
        "GeForce RTX 5090",
        "sm120",
        (21760, 2407),
        (104.8, 419.0, 838.0),
        1792.0,
        "NVIDIA RTX Blackwell GPU Architecture (white paper)",
    ),
    _sheet(
        "a100",
        "A100 SXM 80GB",
        "sm80",
        (6912, 1410),
        (19.5, 312.0, 624.0),
        2039.0,
        "NVIDIA A100 Tensor Core GPU data sheet",
    ),
    _sheet(
        "h100",
        "H100 SXM 80GB",
        "sm90",
        (16896, 1980),
        (66.9, 989.5, 1979.0),
        3350.0,
        "NVIDIA H100 Tensor Core GPU data sheet",
    ),
    _sheet(
        "h200",
        "H200 SXM 141GB",
        "sm90",
        (16896, 1980),
        (66.9, 989.5, 1979.0),
        4800.0,
        "NVIDIA H200 Tensor Core GPU data sheet",
    ),
)
DATASHEETS = {sheet.name: sheet for sheet in _ROWS}
