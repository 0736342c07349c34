/** Shows what reached it from a ConfigMap and a Secret, as variables and as files. */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
import { env, print, readText, sleep } from "../../assembly/wasi";

/** Secrets do not belong into logs: length and first letter must do. */
function veiled(secret: string): string {
  return secret.length > 0 ? secret.charAt(0) + "*".repeat(secret.length - 1) : "(none)";
}

let before = "";
for (;;) {
  const settings = (readText("/etc/app/settings.ini") || "(no file)")!.trim().replaceAll("\n", "; ");
  const key = (readText("/etc/keys/api.key") || "")!.trim();
  const text =
    "GREETING=" + env("GREETING", "(unset)") +
    " LEVEL=" + env("LEVEL", "(unset)") +
    " PASSWORD=" + veiled(env("PASSWORD", "")) +
    " settings.ini: " + settings +
    " api.key: " + veiled(key) +
    " on " + env("NODE", "?");
  // Variables stay what they were at the start; files follow the ConfigMap and the Secret.
  if (text != before) print(text);
  before = text;
  sleep(1000);
}
