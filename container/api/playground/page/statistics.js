/** The numbers of an answer, in words. */

const ENDS = {
  stop: "complete",
  length: "cut at its limit",
  tool_calls: "calls a tool",
  content_filter: "filtered",
};

/** One text for each number that is known. */
export function statistics(answer) {
  const { usage, secondsToFirst, tokensPerSecond } = answer;
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  return [
    usage && `${counted(usage.completion_tokens, "token")}`,
    tokensPerSecond !== null && `${tokensPerSecond.toFixed(tokensPerSecond < 100 ? 1 : 0)} tokens/s`,
    secondsToFirst !== null && `first after ${inSeconds(secondsToFirst)}`,
    usage && `prompt ${counted(usage.prompt_tokens, "token")}${cached ? `, ${cached} cached` : ""}`,
    answer.isStopped ? "stopped" : ENDS[answer.finish],
  ].filter(Boolean);
}

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function inSeconds(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}
