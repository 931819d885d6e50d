/** The numbers of /metrics, asked for again and again while the page can be seen. */

const PERIOD_MS = 2000;

export class Metrics {
  /** `onSample` gets a sample {at, isReady, running, waiting, kv, generated, build}, or null if none came. */
  constructor(connection, onSample) {
    this.connection = connection;
    this.onSample = onSample;
    this.timer = null;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.#again(0));
    this.#again(0);
  }

  #again(wait) {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.#ask(), wait);
  }

  async #ask() {
    try {
      this.onSample(sampleOf(await this.connection.metrics()));
    } catch {
      this.onSample(null);
    }
    this.#again(PERIOD_MS);
  }
}

/** What the page shows of Prometheus' text. */
export function sampleOf(text) {
  const lines = text.split("\n");
  const number = (name) => Number(lines.find((line) => line.startsWith(`${name} `))?.split(" ")[1] ?? 0);
  return {
    at: performance.now(),
    isReady: number("heir_ready") === 1,
    running: number("tgi_batch_current_size"),
    waiting: number("tgi_queue_size"),
    kv: number("heir_kv_use_ratio"),
    generated: number("heir_generated_tokens_total"),
    build: labelsOf(lines.find((line) => line.startsWith("heir_build_info{")) ?? ""),
  };
}

/** The labels of one line, unescaped. */
function labelsOf(line) {
  const found = line.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g);
  return Object.fromEntries([...found].map(([, name, value]) => [name, value.replace(/\\(.)/g, unescaped)]));
}

function unescaped(_, character) {
  return character === "n" ? "\n" : character;
}
