/** Handlers that are shims of their own on a device. */
const SHIMS = new Set(['oci', 'wasm', 'wasmtime', 'fake']);

/** The shim for a RuntimeClass's handler: one that is no shim's name is that of a runtime in the CRI's configuration. */
export const shimOfHandler = (handler: string): string => (SHIMS.has(handler) ? handler : 'oci');
