"""What an H200 should show. Arithmetic, not measured, except the two ceilings, which other programs have reached there.

A decode step reads every weight once and runs its small kernels one after the other: bytes / bandwidth + kernels x
1.6 us. Sources: NVIDIA's datasheet (4.8 TB/s, 989 TFLOP/s), counts of kernels from the pretended device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`. Only the bad side is judged: a time may be shorter, a rate higher."""

    low: float
    high: float
    more_is_better: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is no worse than the range."""
        return value >= self.low if self.more_is_better else value <= self.high

    @property
    def shown(self) -> list[float]:
        """As it stands in a line."""
        return [self.low, self.high]


BANDWIDTH_TBS = Range(4.2, 4.8, more_is_better=True)
MATMUL_TFLOPS = Range(770, 989, more_is_better=True)
LAUNCH_US = Range(2, 8)
WAIT_US = Range(8, 25)

CAPTURE_S = Range(2, 15)
START_S = Range(3, 15)
# One decode step of an 8B model (Llama 3), short contexts, ms: rows -> range.
STEP_MS = {1: Range(5.0, 6.5), 8: Range(5.2, 6.8), 32: Range(5.5, 7.2), 64: Range(6.0, 8.0), 128: Range(7.0, 9.0)}
EAGER_STEP_MS = Range(10, 30)
SAMPLER_MS = {
    "greedy": Range(0.05, 0.2),
    "temperature": Range(0.2, 1.0),
    "top_p": Range(0.3, 2.0),
    "top_k": Range(0.3, 2.0),
    "penalties": Range(0.3, 3.0),
    "grammar": Range(0.1, 2.0),
}
# Tokens a second of all streams together, 512 tokens in and 128 out.
STREAM_TOKENS_S = {
    1: Range(130, 200, more_is_better=True),
    8: Range(900, 1_540, more_is_better=True),
    32: Range(2_800, 5_300, more_is_better=True),
    128: Range(6_500, 20_500, more_is_better=True),
}
# One decode step over 8 of the 32 layers, ms. Dense: 4.6 GB; int4 holds the output layer in 8 bits, the others in 16.
FORM_STEP_MS = {
    "none": {1: Range(1.3, 2.0), 8: Range(1.3, 2.0), 32: Range(1.5, 2.2), 128: Range(1.9, 2.6)},
    "bitsandbytes-nf4": {1: Range(0.9, 1.4), 8: Range(1.6, 2.6), 32: Range(1.8, 3.0), 128: Range(3.0, 4.2)},
    "bitsandbytes": {1: Range(1.4, 2.3), 8: Range(1.4, 2.3), 32: Range(1.5, 2.5), 128: Range(1.8, 3.0)},
    "int4": {1: Range(0.7, 1.3), 8: Range(0.8, 1.4), 32: Range(1.0, 2.0), 128: Range(2.0, 3.5)},
    "fp8": {1: Range(0.9, 1.6), 8: Range(0.9, 1.6), 32: Range(1.0, 1.7), 128: Range(1.4, 2.2)},
}
PREFILL_4096_S = Range(0.09, 0.16)
PREFILL_PEAK_GB = Range(0.35, 0.6)
# Blocks of 256 rows of 128,256 float32 logits beside 4,096 rows in 16 bits.
SCORING_PEAK_GB = Range(1.0, 2.2)
SOFTCAP_PEAK_GB = Range(0.5, 1.5)
KERNELS_A_LAYER = Range(8, 20)
# One product of 4,096 x 14,336 weights, us: bytes of the weight at 4.2 TB/s, and a launch.
PRODUCT_US = {"bfloat16": Range(28, 45), "int4": Range(8, 30), "fp8": Range(15, 40), "nf4": Range(12, 60)}
