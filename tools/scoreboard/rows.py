"""The rows of the scoreboard: a promise, the figure to reach, and the ordinary tests that also check it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One promise. `tests` are files of `make test` that check it in small; `make faults` measures it in full."""

    number: int
    test: str
    reach: str
    tests: tuple[str, ...] = ()


_SEAM = "tests/contract/seam"
_PROCESS = "tests/process"

ROWS: tuple[Row, ...] = (
    Row(
        1,
        "10,000 malformed bodies over every POST route",
        "0 answers >= 500, 0 worker restarts, 0 over 250 ms, 0 leaks of addresses, paths or tracebacks",
        (f"{_SEAM}/test_hostile_input.py",),
    ),
    Row(2, "schemathesis, all checks", "0 failures", ("tests/contract/documents/test_schemathesis.py",)),
    Row(
        3,
        "100 cases of smuggling, broken framing and cut bodies",
        "all 4xx and closed; 0 requests run",
        (f"{_SEAM}/test_hostile_input.py",),
    ),
    Row(
        4,
        "500 slow headers, 500 slow bodies, 200 clients that do not read, 60 s",
        "60 of 60 pings < 250 ms; good requests < 20 % slower; attackers cut <= 10 s",
        (f"{_SEAM}/test_front.py", "tests/unit/container/test_client_socket.py"),
    ),
    Row(5, "10,000 idle keep-alive connections", "0 failed pings; all kept; memory < +200 MB; recovery <= 2 s"),
    Row(
        6,
        "oversize: length, chunked, 1 MB header, 9 kB URL, 200 headers, gzip bomb",
        "413, 413, 431, 414, 431, 415; at most limit + 64 kB read; memory < +5 MB",
        (f"{_SEAM}/test_hostile_input.py",),
    ),
    Row(7, "/ping while saturated", "p50 < 5 ms, p99 < 50 ms, max < 1 s, 0 other than 200"),
    Row(
        8,
        "cold start",
        "port open and /ping 503 <= 1 s; 200 <= load + 2 s; never 200 before a token was generated",
        (f"{_PROCESS}/test_lifecycle.py",),
    ),
    Row(9, "kill -9 engine, idle", "503 <= 1 s; ready <= load + 5 s", (f"{_PROCESS}/test_lifecycle.py",)),
    Row(
        10,
        "kill -9 engine under 32 streams",
        "all end <= 2 s with an error event; 0 hung; 0 tokens twice or out of order; throughput >= 95 % after",
        (f"{_SEAM}/test_engine_death.py",),
    ),
    Row(11, "SIGSTOP engine under load", "detected <= 10 s, then as row 10", ("tests/unit/container/test_stall.py",)),
    Row(
        12,
        "poison: exception or NaN at each per-request site, batch of 16",
        "1 of 16 fails; 15 equal their solo run",
        ("tests/engine/test_isolation.py",),
    ),
    Row(
        13,
        "the same request kills the engine twice",
        "third time refused <= 50 ms; the engine lives",
        ("tests/unit/handler/test_suspects.py",),
    ),
    Row(14, "crash loop", "exit code not 0 after 3 in 10 min", (f"{_PROCESS}/test_lifecycle.py",)),
    Row(
        15,
        "SIGTERM under load",
        "0 dropped of what fits; the rest ends with an error event; new: 503; exit 0 in < 28 s; 20 of 20",
        (f"{_PROCESS}/test_lifecycle.py",),
    ),
    Row(
        16,
        "kill -9 web worker under load",
        "its sequences freed <= 2 s; others < 20 % slower; respawn <= 2 s",
        ("tests/engine/test_requests.py",),
    ),
    Row(17, "kill -9 master", "no process left after 5 s", (f"{_PROCESS}/test_lifecycle.py",)),
    Row(
        18,
        "overload: 10 times capacity, 60 s",
        "excess: 429 and Retry-After in < 50 ms; goodput >= 95 % of peak; accepted within deadline; queue bounded",
        (f"{_SEAM}/test_refusals.py", "tests/unit/container/test_concurrency.py", f"{_PROCESS}/test_serving.py"),
    ),
    Row(
        19,
        "1,000 clients leave at random phases",
        "abort seen <= 0.5 s p99; KV, slots and inboxes back to where they were",
        (f"{_SEAM}/test_disconnects.py",),
    ),
    Row(
        20,
        "200 requests past their deadline",
        "504, or what there is, at deadline + <= 0.25 s; 0 late bytes to anyone",
        (f"{_PROCESS}/test_serving.py", f"{_SEAM}/test_time_limit.py"),
    ),
    Row(
        21,
        "500 random schedules of arrivals, aborts and every sampling parameter",
        "all outputs equal the solo run; 0 NaN",
        ("tests/engine/test_schedules.py",),
    ),
    Row(22, "the same client id, 100 at once", "100 correct", (f"{_SEAM}/test_isolation.py",)),
    Row(
        23,
        "10,000 late, duplicate and reordered engine frames",
        "0 wrong bodies; every frame counted",
        (f"{_SEAM}/test_isolation.py", f"{_SEAM}/test_engine_death.py"),
    ),
    Row(
        24,
        "every added token in content, role, name and tool",
        "0 control ids from a user's text",
        ("tests/unit/text/test_injection.py",),
    ),
    Row(25, "prefix cache timing across tenants, 200 + 200 probes", "AUC <= 0.55"),
    Row(26, "outbound connects while serving", "0", ("tests/unit/handler/test_model_location.py",)),
    Row(27, "greedy alone and in batches of 2 to 32", "tokens and logprobs equal", ("tests/engine/test_greedy.py",)),
    Row(28, "seeded sampling alone and in a batch", "identical", ("tests/engine/test_requests.py",)),
    Row(29, "preemption forced every k steps", "text identical", ("tests/engine/test_requests.py",)),
    Row(
        30,
        "stream equals whole answer, 5,000 prompts",
        "all equal; every chunk valid UTF-8 and JSON",
        ("tests/unit/text/test_detokenizer.py",),
    ),
    Row(
        31,
        "stop strings across tokens and bytes",
        "0 leaks, 0 lost characters",
        ("tests/unit/text/test_stop_strings.py",),
    ),
    Row(32, "soak, mixed load", "memory drift < 2 %; descriptors and threads +0; KV books add up"),
    Row(33, "10,000 distinct grammars, adapters, salts", "memory < +64 MB; 0 files"),
    Row(
        34,
        "out of memory mid-batch",
        "newest 503, the others identical; same engine process",
        ("tests/engine/test_isolation.py",),
    ),
    Row(
        35,
        "20 failures to start",
        "exit code by class, <= 10 s, one line, no traceback",
        (f"{_PROCESS}/test_lifecycle.py",),
    ),
    Row(36, "artefact canaries: code, pickle, auto_map, template, tokenizer", "0 of 25 executed"),
    Row(37, "100,000 random frames between web and engine", "0 exits, 0 hangs over 1 s"),
    Row(38, "root, uid 10001, random uid, read-only root, no capabilities, no network", "6 of 6"),
    Row(
        39,
        "listening sockets and routes",
        "1 port; the URL map is the documented list; all but health want the key",
        (f"{_SEAM}/test_api_key.py",),
    ),
    Row(40, "memory of an idle connection, of a queued request", "< 20 kB; < 50 kB and its body"),
    Row(
        41,
        "a user's code that sleeps, spins, raises, exits or eats memory; one that adds retrieval, 32 requests at once",
        "0 requests to the engine fail, /ping < 2 s; >= 0.9 of the throughput without it",
        ("tests/process/test_hooks.py", "tests/unit/hooks/test_host.py"),
    ),
)

BY_NUMBER = {row.number: row for row in ROWS}
