/** Says where it runs, again and again. The same module runs on every architecture. */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
import { env, print, sleep } from "../../assembly/wasi";

for (;;) {
  print("hello from WebAssembly on " + env("NODE", "?"));
  sleep(5000);
}
