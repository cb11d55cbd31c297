"""Chips by the makers' data sheets: the ceilings that plans are held to."""

from typing import NamedTuple

GIB = 2.0**30


class Chip(NamedTuple):
  """The ceilings of one chip.

  Attributes:
    flops: FLOP/s, dense, in bfloat16.
    hbm: bytes of memory.
    hbm_rate: bytes/s of memory.
    link_rate: bytes/s of all its links to other chips together, in one direction.
    network_rate: bytes/s of its share of the data-centre network, in one direction; 0:
      not published. Of a GPU the network card that is its own on the maker's machines.
    clock: cycles/s, by which the compiler's estimates are read; 0: it makes none.
    cores: which share a kernel's heads.
    mxu: rows and columns of a matrix unit; narrower operands leave some idle.
  """

  flops: float
  hbm: float
  hbm_rate: float
  link_rate: float
  network_rate: float = 0.0
  clock: float = 0.0
  cores: int = 1
  mxu: int = 1


CHIPS = {
  "v4": Chip(275e12, 32 * GIB, 1.228e12, 150e9, 0.0, 1.05e9, 2, 128),
  "v5e": Chip(197e12, 16 * GIB, 0.819e12, 100e9, 3.125e9, 1.5e9, 1, 128),
  "v5p": Chip(459e12, 95 * GIB, 2.765e12, 300e9, 6.25e9, 1.75e9, 2, 128),
  "v6e": Chip(918e12, 31.25 * GIB, 1.64e12, 224e9, 12.5e9, 1.75e9, 1, 256),
  "H100": Chip(989e12, 80 * GIB, 3.35e12, 450e9, 50e9),
  "H200": Chip(989e12, 141e9, 4.8e12, 450e9, 50e9),
  "A100": Chip(312e12, 80 * GIB, 2.0e12, 300e9, 25e9),
  # A core or two of some server: to try plans on the host's virtual devices.
  "cpu": Chip(1e11, 8 * GIB, 2e10, 1e10),
}
MACHINE = 8  # GPUs that NVLink joins
# Names that JAX gives to devices, in part; the first match holds.
_KINDS = (
  ("H100", "H100"), ("H200", "H200"), ("A100", "A100"), ("TPU v4", "v4"),
  ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"), ("TPU v6", "v6e"),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
  """The chip of a device by JAX's name of it; None where it is not known."""
  return next((CHIPS[c] for part, c in _KINDS if part in device_kind), None)
