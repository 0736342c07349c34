/** Summarises what the sensor container has written so far. Its mount of the shared volume is read-only. */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
import { env, print, readText, sleep } from "../../assembly/wasi";

const READINGS = "/data/readings.csv";
const interval = <u64>Math.max(100, parseInt(env("SUMMARY_MS", "5000")));
const unit = env("UNIT", "");

function show(value: f64): string {
  return (Math.round(value * 10) / 10).toString() + unit;
}

for (;;) {
  const text = readText(READINGS);
  let count = 0;
  let sum: f64 = 0;
  let low = Infinity;
  let high = -Infinity;
  if (text) {
    const lines = text.split("\n");
    for (let i = 0; i < lines.length; i++) {
      const comma = lines[i].indexOf(",");
      // The last line may still be on its way.
      if (comma < 0) continue;
      const value = parseFloat(lines[i].substring(comma + 1));
      if (isNaN(value)) continue;
      count++;
      sum += value;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (count > 0) {
    print(count.toString() + " readings, lowest " + show(low) + ", mean " + show(sum / count) + ", highest " + show(high));
  } else print("no readings yet");
  sleep(interval);
}
