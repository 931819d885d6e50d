"""`read_adapter`: an adapter's directory in, additions to the loaded model out, all of them checked against it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from handler.adapters.adapter import Adapter, BadAdapter, ExpertLowRank, LowRank, TokenLowRank, TokenRows
from handler.adapters.adapter_config import AdapterConfig
from handler.adapters.adapter_file import read_files
from handler.adapters.landing import Landing, Landings
from handler.adapters.model_shape import ModelShape, Size, row_marks
from handler.adapters.name_match import is_named
from handler.adapters.stacking import Part, whole_experts, whole_product
from handler.adapters.tensor_names import Named, NamedTensors, Pair, without_base_layer

logger = logging.getLogger(__name__)

# Names of unused tensors in a line of the log.
_MAX_NAMED = 10


def read_adapter(directory: Path, model: ModelShape) -> Adapter:
    """The adapter in `directory`: adapter_config.json and adapter_model.safetensors of peft.

    Raises BadAdapter with one sentence: for files that are missing, unsafe or malformed, for what is not served, for
    sizes that are not the model's, and if no tensor lands on the model. Tensors that land nowhere are logged, and
    modules that are targeted and get none.
    """
    config, tensors = read_files(directory)
    reading = _Reading(config, model)
    reading.take(NamedTensors.of(tensors))
    adapter = reading.adapter()
    if not adapter.paths:
        first = f"; the first is {reading.unused[0][:200]}" if reading.unused else ""
        raise BadAdapter(f"none of the adapter's {len(tensors)} tensors belongs to this {model.model_type}{first}")
    if adapter.unused:
        logger.warning("adapter %s: these tensors are not used: %s", directory, _listed(adapter.unused))
    missing = _targets_without_tensors(config, model, adapter)
    if missing:
        logger.warning("adapter %s targets these modules, and has no tensors for them: %s", directory, _listed(missing))
    return adapter


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(name[:200] for name in names[:_MAX_NAMED]) + more


def _targets_without_tensors(config: AdapterConfig, model: ModelShape, adapter: Adapter) -> list[str]:
    """Modules that the configuration targets by the names that they have here, and that the adapter leaves alone.

    peft puts nothing on the output layer for "all-linear", and on what is in `modules_to_save`.
    """
    paths = [*model.linears, *filter(None, [model.input_embedding])]
    if config.target_modules == "all-linear":
        paths = [path for path in model.linears if path != model.output_layer]
    kept = {path for path in paths if is_named(path, config.modules_to_save)}
    return [path for path in paths if path not in adapter.paths and path not in kept and config.targets(path)]


class _Reading:
    """Takes tensors by what they are, and puts them where they belong in the model."""

    def __init__(self, config: AdapterConfig, model: ModelShape) -> None:
        self.unused: list[str] = []
        self._config, self._model = config, model
        self._landings = Landings(model)
        self._parts: dict[str, list[Part]] = {}
        self._experts: dict[str, ExpertLowRank] = {}
        self._bias_changes: dict[str, Tensor] = {}
        self._embeddings: dict[str, TokenLowRank] = {}
        self._weights: dict[str, Tensor] = {}
        self._token_rows: dict[str, TokenRows] = {}
        self._max_rank = 0

    def take(self, tensors: NamedTensors) -> None:
        """Place all tensors, or note that they are unused. Raises BadAdapter."""
        self.unused += tensors.unknown
        for path, pair in tensors.pairs.items():
            self._take_pair(without_base_layer(path), pair)
        for path, bias in tensors.biases.items():
            self._take_bias(path, bias)
        for path, weight in tensors.weights.items():
            self._take_weight(path, weight, is_copy=False)
        for path, weight in tensors.copies.items():
            self._take_weight(path, weight, is_copy=True)
        for path, rows in tensors.tokens.items():
            self._take_tokens(path, rows, alone=len(tensors.tokens) == 1)

    def adapter(self) -> Adapter:
        """What was taken."""
        products: dict[str, LowRank] = {}
        routers: dict[str, LowRank] = {}
        experts = dict(self._experts)
        for path, parts in self._parts.items():
            if path in self._model.experts:
                experts[path] = whole_experts(self._model.experts[path], parts)
            elif path in self._model.routers:
                routers[path] = whole_product(self._model.routers[path], parts)
            else:
                products[path] = whole_product(self._model.linears[path], parts)
        pairs: list[LowRank | ExpertLowRank] = [*products.values(), *experts.values(), *routers.values()]
        held = [tensor for pair in pairs for tensor in (pair.down, pair.up)]
        held += [tensor for each in self._embeddings.values() for tensor in (each.rows, each.up)]
        router_biases = {path: self._bias_changes.pop(path) for path in self._model.routers.keys() & self._bias_changes}
        held += router_biases.values()
        held += [*self._weights.values(), *self._bias_changes.values(), *(r.values for r in self._token_rows.values())]
        return Adapter(
            products=products,
            experts=experts,
            routers=routers,
            router_biases=router_biases,
            bias_changes=self._bias_changes,
            embeddings=self._embeddings,
            weights=self._weights,
            token_rows=self._token_rows,
            max_rank=self._max_rank,
            num_bytes=sum(tensor.nbytes for tensor in held),
            unused=tuple(self.unused),
        )

    def _take_pair(self, path: str, pair: Pair) -> None:
        assert pair.down is not None
        assert pair.up is not None
        found = self._landings.module(path)
        if pair.of_embedding:
            self._take_embedding(path, found, pair.down, pair.up)
            return
        matrices = {at: size for at, size in self._model.experts.items() if at.rpartition(".")[0] == found}
        if matrices:
            self._take_experts(path, matrices, pair.down, pair.up)
            return
        landings = self._landings.products(path)
        names = (path, *(landing.path for landing in landings))
        is_tied = self._is_tied_output(landings)
        if not landings or not (is_tied or self._config.targets(*names)):
            self.unused += pair.names
            return
        rank = len(pair.down.tensor)
        patterned = (*names, f"{path}.weight")
        scaling = self._scaling(pair.down, rank, patterned, self._model.input_embedding if is_tied else None)
        num_rows = sum(_num_rows(landing, self._model) for landing in landings)
        _check(pair.up, (num_rows, rank), landings[0].path)
        for landing in landings:
            self._take_part(landing, pair.down, pair.up, scaling)
        if pair.bias is not None:
            self._take_addition_bias(landings, pair.bias, scaling)

    def _is_tied_output(self, landings: list[Landing]) -> bool:
        """Whether peft shares the embedding's addition with the output layer here (its _add_targets_to_tie).

        Its configuration then targets the embedding alone; the file holds both.
        """
        if not self._config.ensure_weight_tying or self._model.input_embedding is None:
            return False
        is_output = [landing.path for landing in landings] == [self._model.output_layer]
        return is_output and self._config.targets(self._model.input_embedding)

    def _scaling(self, down: Named, rank: int, names: tuple[str, ...], tied_to: str | None = None) -> float:
        """The addition's factor. One that is shared with the module `tied_to` has that module's rank, and as peft
        computes it the factor of its own names."""
        expected = self._config.rank(*names) if tied_to is None else self._config.rank(tied_to)
        if rank != expected:
            raise BadAdapter(f"{down.name} has the rank {rank}, and the configuration says {expected}")
        self._max_rank = max(self._max_rank, rank)
        return self._config.scaling(*names)

    def _take_part(self, landing: Landing, down: Named, up: Named, scaling: float) -> None:
        size = self._model.size(landing.path)
        assert size is not None
        _check(down, (len(down.tensor), size.num_inputs), landing.path)
        part = Part(landing, down.tensor, up.tensor[landing.first : landing.last], scaling, down.name)
        self._parts.setdefault(landing.path, []).append(part)

    def _take_embedding(self, path: str, found: str | None, down: Named, up: Named) -> None:
        if found is None or found != self._model.input_embedding or not self._config.targets(path, found):
            self.unused += [down.name, up.name]
            return
        size = self._model.embedding_size
        rank = len(down.tensor)
        _check(down, (rank, size.num_outputs), found)
        _check(up, (size.num_inputs, rank), found)
        scaling = self._scaling(down, rank, (path, found))
        self._embeddings[found] = TokenLowRank(down.tensor.T.contiguous(), up.tensor, scaling)

    def _take_experts(self, path: str, matrices: dict[str, Size], down: Named, up: Named) -> None:
        """Which matrix it is, its sizes say: the file does not."""
        for at, size in matrices.items():
            rank, rest = divmod(len(down.tensor), size.num_experts)
            if down.tensor.shape[1] == size.num_inputs and len(up.tensor) == size.num_outputs and not rest:
                _check(up, (size.num_outputs, len(down.tensor)), at)
                scaling = self._scaling(down, rank, (f"{path}.{at.rpartition('.')[2]}", at))
                self._experts[at] = ExpertLowRank(
                    down.tensor.view(size.num_experts, rank, size.num_inputs),
                    up.tensor.view(size.num_outputs, rank, size.num_experts).permute(2, 0, 1).contiguous(),
                    scaling,
                )
                return
        shapes = f"{tuple(down.tensor.shape)} and {tuple(up.tensor.shape)}"
        raise BadAdapter(
            f"{down.name} and its pair have the shapes {shapes}, which no matrix of the experts {path} has"
        )

    def _take_bias(self, path: str, given: Named) -> None:
        found = self._landings.module(path)
        if found in self._model.biases:
            landings = [Landing(found)] if found is not None else []
        else:
            landings = [each for each in self._landings.products(path) if each.path in self._model.biases]
        if not landings:
            self.unused.append(given.name)
        for landing in landings:
            base = self._model.biases[landing.path][landing.start : landing.stop]
            wanted = given.tensor[landing.first : landing.last].float()
            _check(Named(given.name, wanted), tuple(base.shape), landing.path)
            if landing.path not in self._model.convolutions:
                self._change(landing, wanted - base)
            elif not torch.equal(wanted, base):
                raise BadAdapter(f"{given.name} changes the bias of a convolution, which is not served")

    def _take_addition_bias(self, landings: list[Landing], given: Named, scaling: float) -> None:
        if not self._config.lora_bias or any(landing.expert is not None for landing in landings):
            self.unused.append(given.name)
            return
        for landing in landings:
            added = given.tensor[landing.first : landing.last].float() * scaling
            _check(Named(given.name, added), (_num_rows(landing, self._model),), landing.path)
            self._change(landing, added)

    def _change(self, landing: Landing, added: Tensor) -> None:
        """Add `added` to what the adapter adds to these outputs."""
        if landing.path not in self._bias_changes:
            size = self._model.linears.get(landing.path)
            count = size.num_outputs if size is not None else len(self._model.biases[landing.path])
            self._bias_changes[landing.path] = torch.zeros(count)
        self._bias_changes[landing.path][landing.start : landing.stop] += added

    def _take_weight(self, path: str, given: Named, *, is_copy: bool) -> None:
        """A whole weight; `is_copy` for one that peft keeps beside its addition, and did not train."""
        found = self._landings.module(path)
        if found is None or found not in (self._model.input_embedding, self._model.output_layer):
            if found is not None or path in self._model.modules:
                raise BadAdapter(f"{given.name} is a whole weight; only embeddings and output layer may be replaced")
            self.unused.append(given.name)
            return
        size = self._model.embedding_size if found == self._model.input_embedding else self._model.linears[found]
        _check(given, (size.num_outputs, size.num_inputs), found)
        if not is_copy or not self._is_base(found, given.tensor):
            self._weights[found] = given.tensor

    def _is_base(self, path: str, weight: Tensor) -> bool:
        """Whether it is the base's own weight, in either's type; a quantised one cannot be compared."""
        marks = self._model.marks.get(path)
        return marks is None or any(torch.equal(each, row_marks(weight, dtype)) for dtype, each in marks.items())

    def _take_tokens(self, path: str, given: Named, *, alone: bool) -> None:
        """Rows of some tokens. peft writes those of the embedding alone where the output layer shares its weight."""
        found = self._landings.module(path)
        indices = self._config.trainable_token_indices
        if isinstance(indices, dict):
            indices = next((ids for name, ids in indices.items() if path == name or path.endswith(f".{name}")), None)
        if found is None or found not in (self._model.input_embedding, self._model.output_layer) or indices is None:
            self.unused.append(given.name)
            return
        size = self._model.embedding_size
        _check(given, (len(indices), size.num_inputs), found)
        if indices and max(indices) >= size.num_outputs:
            raise BadAdapter(f"trainable_token_indices has {max(indices)}, and the model {size.num_outputs} tokens")
        rows = TokenRows(torch.tensor(indices), given.tensor)
        self._token_rows[found] = rows
        if alone and self._model.tied and self._model.output_layer is not None:
            self._token_rows[self._model.output_layer] = rows


def _num_rows(landing: Landing, model: ModelShape) -> int:
    """Outputs of the model that the landing covers."""
    if landing.start is None or landing.stop is None:
        size = model.size(landing.path)
        return 0 if size is None else size.num_outputs
    return landing.stop - landing.start


def _check(given: Named, expected: tuple[int, ...], path: str) -> None:
    """Raise BadAdapter unless the tensor has this shape."""
    if tuple(given.tensor.shape) != expected:
        raise BadAdapter(f"{given.name} has the shape {tuple(given.tensor.shape)}; the model's {path} needs {expected}")
