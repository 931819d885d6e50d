"""`KVManager`: what the scheduler asks of KV memory. `SlotManager` and `BlockManager` implement it. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from handler.scheduling.sequence import Sequence


class KVManager(Protocol):
    """Accounting of KV memory; the tensors belong to the runner. Amounts are in tokens of one sequence."""

    def allocate(self, seq: Sequence) -> bool:
        """Give `seq` a slot or block table and its cached prefix; False, changing nothing, if it must wait."""

    def reserve(self, seq: Sequence, num_tokens: int) -> bool:
        """Ensure room for the first `num_tokens` tokens of `seq`; False, changing nothing, if there is none."""

    def commit(self, seq: Sequence) -> None:
        """Record that the keys and values of `seq.token_ids[:seq.num_computed]` are in the cache."""

    def release(self, seq: Sequence) -> None:
        """Free everything `seq` holds."""

    def invalidate(self, seq: Sequence) -> None:
        """Stop sharing what `seq` computed or reused, since it may be wrong. The caller releases `seq` next."""

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError unless the accounting is consistent and `running` holds exactly what is allocated."""

    @property
    def used_tokens(self) -> int:
        """Tokens' worth of memory that is allocated."""

    @property
    def prefix_page_size(self) -> int:
        """Prefixes are shared in units of this many tokens; 0 if they are not shared."""

    @property
    def prefix_query_tokens(self) -> int:
        """Prompt tokens looked up in the prefix cache so far."""

    @property
    def prefix_hit_tokens(self) -> int:
        """Prompt tokens found there."""
