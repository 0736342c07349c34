/** Reads a sensor at an interval, logs each reading and appends it to a file that the pod's other container reads. */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
import { append, env, fail, now, print, readBytes, readText, replace, sleep } from "../../assembly/wasi";

/** Where the manifest mounts the device (or file) of the host. */
const DEVICE = "/dev/sensor";
const READINGS = "/data/readings.csv";
/** The volume is in memory: old readings go before it is full. */
const KEEP_LINES = 1000;

const format = env("FORMAT", "raw16");
const interval = <u64>Math.max(100, parseInt(env("INTERVAL_MS", "2000")));
const unit = env("UNIT", "");

/** One reading; NaN when there is none. */
function read(): f64 {
  if (format == "text") {
    // As sysfs gives it: digits and a newline, in thousandths.
    const text = readText(DEVICE);
    return text ? parseInt(text) / 1000 : NaN;
  }
  // As many analog converters give it: 16 bits, here taken as -40 … 85.
  const bytes = readBytes(DEVICE, 2);
  if (!bytes || bytes.length < 2) return NaN;
  const raw = load<u16>(bytes.dataStart);
  return -40 + (<f64>raw / 65535) * 125;
}

let lines = 0;
for (;;) {
  const value = read();
  if (isNaN(value)) fail("cannot read " + DEVICE + " as " + format);
  const shown = (Math.round(value * 10) / 10).toString();
  print("reading " + shown + unit);
  if (!append(READINGS, now().toString() + "," + shown + "\n")) fail("cannot write " + READINGS);
  if (++lines > 2 * KEEP_LINES) {
    const all = (readText(READINGS) || "")!.split("\n");
    replace(READINGS, all.slice(all.length - 1 - KEEP_LINES).join("\n"));
    lines = KEEP_LINES;
  }
  sleep(interval);
}
