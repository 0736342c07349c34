// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
import { put } from "./wasi.as";

put(1, "hello from wasm\n");
